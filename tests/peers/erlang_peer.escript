#!/usr/bin/env escript
%% An echo in Erlang: `escript erlang_peer.escript PACKET WHAT [PORT]`, where PACKET is 1, 2, 4 or line.
%% It dials PORT, or listens on a free one and prints it. WHAT it does on its one connection: `echo`; `big`, three
%% messages of which the middle one has 200 bytes; `cut`, a message and a half.

main([Packet, What]) ->
    {ok, Listener} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}} | options(Packet)]),
    {ok, Port} = inet:port(Listener),
    io:format("~b~n", [Port]),
    {ok, Socket} = gen_tcp:accept(Listener),
    talk(list_to_atom(What), Packet, Socket);
main([Packet, What, Port]) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, list_to_integer(Port), options(Packet)),
    talk(list_to_atom(What), Packet, Socket).

%% A line longer than the buffer comes in pieces; packet_size is the longest message, in bytes.
options("line") -> [binary, {active, false}, {packet, line}, {buffer, 1 bsl 20}];
options(Packet) -> [binary, {active, false}, {packet, list_to_integer(Packet)}, {packet_size, 1 bsl 20}].

talk(echo, Packet, Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Message} ->
            ok = gen_tcp:send(Socket, Message),
            talk(echo, Packet, Socket);
        {error, Reason} when Reason =:= closed; Reason =:= emsgsize ->
            gen_tcp:close(Socket)
    end;
talk(big, Packet, Socket) ->
    [ok = gen_tcp:send(Socket, message(Packet, Text)) || Text <- [<<"a">>, long(), <<"b">>]],
    gen_tcp:close(Socket);
talk('cut', Packet, Socket) ->
    ok = gen_tcp:send(Socket, message(Packet, <<"a">>)),
    ok = inet:setopts(Socket, [{packet, raw}]),
    ok = gen_tcp:send(Socket, half(Packet)),
    gen_tcp:close(Socket).

%% {packet, line} tells lines apart, but writes no line ends.
message("line", Text) -> <<Text/binary, "\n">>;
message(_, Text) -> Text.

half("line") -> binary:copy(<<"x">>, 100);
half(Packet) -> <<200:(8 * list_to_integer(Packet)), (binary:copy(<<"x">>, 100))/binary>>.

long() -> binary:copy(<<"x">>, 200).
