/* The load on message servers: made by epoll in one thread, and every reply compared with what was sent.
 *
 *   load MODE ADDRESS [-c CONNECTIONS] [-d IN_FLIGHT] [-b BODY] [-s SECONDS] [-w WIRE]
 *
 *   echo     messages that come back: their rate and their latency
 *   oneway   messages that are only taken: half-closes after SECONDS, and the server answers how many it took
 *   idle     opens connections, has one message echoed on each, says so, and holds them until it is killed
 *   flood    echo, while another connection writes as fast as it can, and reads what comes back
 *
 * ADDRESS is host:port; `oneway` over zmtp takes a second one behind a comma, where the server pushes its answer. WIRE
 * is `length` (4 bytes, big-endian) or `zmtp` (ZeroMQ's ZMTP 3.0, its DEALER and its PUSH, NULL security:
 * https://rfc.zeromq.org/spec/23/). One line of JSON is printed; latencies are in microseconds, `cpu` is the
 * share of one processor that this program took: below 1 it was not what the server waited for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1 << 20)
#define PORTS_PER_ADDRESS 20000 /* of the 28,232 that Linux gives to outgoing connections */
#define EVENTS 1024
#define PATIENCE 30 /* seconds without any reply */

/* Powers of two of nanoseconds, each in 64 parts: within 1.6 % of the truth, from 1 ns to centuries. */
#define PARTS 64

static uint64_t histogram[64 * PARTS];
static uint64_t longest;

static const char *address, *answers_at;
static int connections = 1, in_flight = 1, body = 64;
static double seconds = 1;
static bool zmtp;
static size_t header, frame;
static const char *zmtp_role;

typedef struct {
    int fd;
    char *ring;       /* the `in_flight` messages that are under way, as they are on the wire */
    uint64_t *asked;  /* when each of them was asked for, in nanoseconds */
    uint64_t written; /* bytes, of the endless stream that the ring repeats */
    uint64_t read;
    uint64_t ready; /* how far it may be written */
} Connection;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void check(bool good, const char *what) {
    if (!good) fail("%s: %s", what, strerror(errno));
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static double processor_seconds(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* The histogram. */

static void note(uint64_t nanoseconds) {
    int power = 63 - __builtin_clzll(nanoseconds | PARTS);
    int shift = power - __builtin_ctz(PARTS);
    histogram[(uint64_t)shift * PARTS + (nanoseconds >> shift)]++;
    if (nanoseconds > longest) longest = nanoseconds;
}

static double percentile(uint64_t total, double share) {
    uint64_t seen = 0;
    for (uint64_t place = 0; place < 64 * PARTS; place++) {
        seen += histogram[place];
        if (seen && (double)seen >= share * (double)total) {
            uint64_t shift = place < 2 * PARTS ? 0 : place / PARTS - 1;
            return (double)((place - shift * PARTS) << shift) / 1e3;
        }
    }
    return 0;
}

/* Connections, and messages on them. */

static void write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t count = write(fd, data, size);
        check(count > 0, "write");
        data += count;
        size -= (size_t)count;
    }
}

static void read_all(int fd, char *data, size_t size) {
    while (size) {
        ssize_t count = read(fd, data, size);
        check(count >= 0, "read");
        if (count == 0) fail("the server hung up");
        data += count;
        size -= (size_t)count;
    }
}

static void shake_hands_by_zmtp(int fd, const char *role) {
    char greeting[64] = "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL", ready[64], theirs[257];
    size_t length = strlen(role);
    write_all(fd, greeting, sizeof greeting);
    read_all(fd, greeting, sizeof greeting);
    int size = snprintf(ready, sizeof ready, "%c%c%cREADY%cSocket-Type%c%c%c%c%s", 4, (int)(22 + length), 5, 11, 0, 0, 0,
                        (int)length, role);
    write_all(fd, ready, (size_t)size);
    read_all(fd, theirs, 2);
    if (theirs[0] != 4) fail("a ZeroMQ server that is not READY");
    read_all(fd, theirs + 2, (uint8_t)theirs[1]);
}

static int dial(const char *where, int number, const char *role) {
    int one = 1, fd;
    char host[64];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    const char *colon = strrchr(where, ':');
    if (!colon) fail("%s is no address", where);
    snprintf(host, sizeof host, "%.*s", (int)(colon - where), where);
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1) fail("%s is no IPv4 address", host);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(number / PORTS_PER_ADDRESS));
    check((fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0, "socket");
    /* Only loopback has addresses to spare, and only many connections need them. */
    if (number >= PORTS_PER_ADDRESS) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        check(!bind(fd, (void *)&from, sizeof from), "bind");
    }
    check(!connect(fd, (void *)&to, sizeof to), "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (role) shake_hands_by_zmtp(fd, role);
    return fd;
}

static void make_unblocking(int fd) { check(!fcntl(fd, F_SETFL, O_NONBLOCK), "fcntl"); }

static void frame_at(char *at) {
    uint32_t length = htonl((uint32_t)body);
    if (!zmtp)
        memcpy(at, &length, header);
    else if (body < 256)
        at[0] = 0, at[1] = (char)body;
    else
        at[0] = 2, memset(at + 1, 0, 4), memcpy(at + 5, &length, 4);
    memset(at + header, 'x', (size_t)body);
}

static char *frames(size_t count) {
    char *made = malloc(count * frame);
    check(made != NULL, "malloc");
    for (size_t index = 0; index < count; index++) frame_at(made + index * frame);
    return made;
}

/* Echo. */

/* No two messages under way are alike, so that one lost, doubled or in the wrong place is found. */
static void stamp(Connection *connection, uint64_t index) {
    size_t size = (size_t)body < sizeof index ? (size_t)body : sizeof index;
    memcpy(connection->ring + index % (uint64_t)in_flight * frame + header, &index, size);
}

static void open_echo(Connection *connection, int number) {
    connection->fd = dial(address, number, zmtp_role);
    make_unblocking(connection->fd);
    connection->ring = frames((size_t)in_flight);
    connection->asked = calloc((size_t)in_flight, sizeof *connection->asked);
    check(connection->asked != NULL, "calloc");
    for (int index = 0; index < in_flight; index++) stamp(connection, (uint64_t)index);
    connection->ready = (uint64_t)in_flight * frame;
}

static void pump(Connection *connection) {
    uint64_t size = (uint64_t)in_flight * frame;
    while (connection->written < connection->ready) {
        uint64_t offset = connection->written % size, left = connection->ready - connection->written;
        uint64_t first = left < size - offset ? left : size - offset;
        struct iovec pieces[2] = {{connection->ring + offset, first}, {connection->ring, left - first}};
        ssize_t count = writev(connection->fd, pieces, left > first ? 2 : 1);
        if (count < 0 && errno == EAGAIN) return; /* edge-triggered: we are told when there is room */
        check(count >= 0, "write");
        connection->written += (uint64_t)count;
    }
}

/* How many messages came back. */
static uint64_t take_replies(Connection *connection, char *buffer) {
    uint64_t size = (uint64_t)in_flight * frame, before = connection->read / frame;
    ssize_t count;
    do {
        count = read(connection->fd, buffer, CHUNK);
        if (count < 0 && errno == EAGAIN) break;
        check(count >= 0, "read");
        if (count == 0) fail("the server hung up");
        if (connection->read + (uint64_t)count > connection->written) fail("more came back than was sent");
        for (ssize_t done = 0; done < count;) {
            uint64_t offset = connection->read % size, part = (uint64_t)(count - done);
            if (part > size - offset) part = size - offset;
            if (memcmp(buffer + done, connection->ring + offset, part)) fail("a wrong reply");
            connection->read += part;
            done += (ssize_t)part;
        }
    } while (count == CHUNK); /* less than asked for: a stream socket is empty then, epoll(7) */
    uint64_t after = connection->read / frame;
    if (after > before) {
        uint64_t time = now();
        for (uint64_t index = before; index < after; index++) {
            uint64_t *asked = &connection->asked[index % (uint64_t)in_flight];
            note(time - *asked);
            *asked = time; /* also where the kernel takes it later: who waits for it has asked now */
            stamp(connection, index + (uint64_t)in_flight);
        }
        connection->ready += (after - before) * frame;
    }
    return after - before;
}

static void echo(uint64_t *flooded) {
    int poller = epoll_create1(0);
    char *buffer = malloc(CHUNK);
    Connection *all = calloc((size_t)connections, sizeof *all);
    struct epoll_event events[EVENTS];
    check(buffer && all, "malloc");
    for (int number = 0; number < connections; number++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = (uint32_t)number};
        open_echo(&all[number], number);
        check(!epoll_ctl(poller, EPOLL_CTL_ADD, all[number].fd, &event), "epoll_ctl");
    }
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9), total = 0, time = start, last = start;
    uint64_t flooded_before = flooded ? *flooded : 0;
    double processor = processor_seconds(RUSAGE_SELF);
    for (int number = 0; number < connections; number++) {
        for (int index = 0; index < in_flight; index++) all[number].asked[index] = now();
        pump(&all[number]);
    }
    for (; time < end; time = now()) {
        int ready = epoll_wait(poller, events, EVENTS, 100);
        uint64_t came = 0;
        for (int place = 0; place < ready; place++) {
            Connection *connection = &all[events[place].data.u32];
            came += take_replies(connection, buffer);
            pump(connection);
        }
        if (came) last = now();
        if (time > last + (uint64_t)PATIENCE * 1000000000) fail("no reply for %d seconds", PATIENCE);
        total += came;
    }
    if (total == 0) fail("no reply at all");
    double passed = (double)(time - start) / 1e9;
    printf("{\"messages\": %lu, \"rate\": %.0f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f, "
           "\"cpu\": %.3f",
           total, (double)total / passed, percentile(total, 0.5), percentile(total, 0.99), percentile(total, 0.999),
           (double)longest / 1e3, (processor_seconds(RUSAGE_SELF) - processor) / passed);
    if (flooded) printf(", \"flooded\": %.0f", (double)(*flooded - flooded_before) / (double)frame / passed);
    puts("}");
}

/* One way. */

static uint64_t answer(int fd) {
    char got[64];
    uint64_t count;
    size_t ahead = zmtp ? 2 : 4;
    read_all(fd, got, ahead);
    if (got[ahead - 1] != sizeof count) fail("the answer is no count of 8 bytes");
    read_all(fd, (char *)&count, sizeof count);
    return be64toh(count);
}

static void one_way(void) {
    size_t size = CHUNK / frame * frame;
    int poller = epoll_create1(0), subscriber = -1;
    char *chunk = frames(CHUNK / frame);
    int *fds = calloc((size_t)connections, sizeof *fds);
    uint64_t *written = calloc((size_t)connections, sizeof *written), total = 0, taken = 0;
    struct epoll_event events[EVENTS];
    check(size && fds && written, "a message that is too large");
    if (zmtp) subscriber = dial(answers_at, 0, "PULL");
    for (int number = 0; number < connections; number++) {
        struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (uint32_t)number};
        fds[number] = dial(address, number, zmtp_role);
        make_unblocking(fds[number]);
        check(!epoll_ctl(poller, EPOLL_CTL_ADD, fds[number], &event), "epoll_ctl");
    }
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9);
    double processor = processor_seconds(RUSAGE_SELF);
    while (now() < end) {
        int ready = epoll_wait(poller, events, EVENTS, 100);
        for (int place = 0; place < ready; place++) {
            uint32_t number = events[place].data.u32;
            size_t offset = written[number] % size;
            ssize_t count = write(fds[number], chunk + offset, size - offset);
            if (count < 0 && errno == EAGAIN) continue;
            check(count >= 0, "write");
            written[number] += (uint64_t)count;
        }
    }
    for (int number = 0; number < connections; number++) {
        size_t inside = written[number] % frame;
        check(!fcntl(fds[number], F_SETFL, 0), "fcntl");
        if (inside) write_all(fds[number], chunk + inside, frame - inside);
        total += (written[number] + frame - 1) / frame;
        if (zmtp) /* has no half-close: an empty message says it */
            write_all(fds[number], "\0\0", 2);
        else
            check(!shutdown(fds[number], SHUT_WR), "shutdown");
    }
    for (int number = 0; number < connections; number++) taken += answer(zmtp ? subscriber : fds[number]);
    double passed = (double)(now() - start) / 1e9;
    if (taken != total) fail("the server took %lu messages of %lu", taken, total);
    printf("{\"messages\": %lu, \"rate\": %.0f, \"cpu\": %.3f}\n", total, (double)total / passed,
           (processor_seconds(RUSAGE_SELF) - processor) / passed);
}

/* Idle. */

static void idle(void) {
    char *message = frames(1), *reply = malloc(frame);
    check(reply != NULL, "malloc");
    for (int number = 0; number < connections; number++) {
        int fd = dial(address, number, zmtp_role);
        write_all(fd, message, frame);
        read_all(fd, reply, frame);
        if (memcmp(reply, message, frame)) fail("a wrong reply");
    }
    printf("{\"open\": %d}\n", connections);
    fflush(stdout);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
}

/* Flood. */

static void flood_forever(uint64_t *flooded) {
    size_t size = CHUNK / frame * frame, offset = 0;
    char *chunk = frames(CHUNK / frame), *buffer = malloc(CHUNK);
    struct pollfd wait = {.fd = dial(address, 0, zmtp_role), .events = POLLOUT | POLLIN};
    check(size && buffer, "a message that is too large");
    make_unblocking(wait.fd);
    while (poll(&wait, 1, -1) > 0) {
        ssize_t count;
        if (wait.revents & (POLLIN | POLLHUP | POLLERR)) {
            count = read(wait.fd, buffer, CHUNK);
            if (count == 0 || (count < 0 && errno != EAGAIN)) fail("the server hung up on the flooder");
        }
        if (wait.revents & POLLOUT && (count = write(wait.fd, chunk + offset, size - offset)) > 0) {
            offset = (offset + (size_t)count) % size;
            *flooded += (uint64_t)count;
        }
    }
}

static void flood(void) {
    uint64_t *flooded = mmap(NULL, sizeof *flooded, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(flooded != MAP_FAILED, "mmap");
    pid_t flooder = fork(); /* a process of its own, so that our latencies are not its doing */
    check(flooder >= 0, "fork");
    if (!flooder) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        flood_forever(flooded);
        exit(1);
    }
    while (!*flooded && !waitpid(flooder, NULL, WNOHANG)) usleep(1000);
    echo(flooded);
    if (waitpid(flooder, NULL, WNOHANG)) fail("the flooder ended");
    kill(flooder, SIGKILL);
    waitpid(flooder, NULL, 0);
}

int main(int count, char **words) {
    if (count < 3) fail("usage: load MODE ADDRESS [-c N] [-d N] [-b BYTES] [-s SECONDS] [-w length|zmtp]");
    const char *mode = words[1];
    char *comma = strchr(words[2], ',');
    address = words[2];
    if (comma) *comma = 0, answers_at = comma + 1;
    optind = 3;
    for (int option; (option = getopt(count, words, "c:d:b:s:w:")) != -1;) {
        if (option == 'c') connections = atoi(optarg);
        if (option == 'd') in_flight = atoi(optarg);
        if (option == 'b') body = atoi(optarg);
        if (option == 's') seconds = atof(optarg);
        if (option == 'w') zmtp = !strcmp(optarg, "zmtp");
        if (option == '?') return 2;
    }
    if (connections < 1 || in_flight < 1 || body < 1 || seconds <= 0) fail("numbers must be positive");
    struct rlimit limit;
    check(!getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    check(!setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
    signal(SIGPIPE, SIG_IGN);
    header = !zmtp ? 4 : body < 256 ? 2 : 9;
    frame = header + (size_t)body;
    if (zmtp) zmtp_role = strcmp(mode, "oneway") ? "DEALER" : "PUSH";
    if (zmtp && !strcmp(mode, "oneway") && (!answers_at || connections > 1))
        fail("oneway over zmtp needs an address for the answer, and is asked for it on one connection");
    if (!strcmp(mode, "echo"))
        echo(NULL);
    else if (!strcmp(mode, "oneway"))
        one_way();
    else if (!strcmp(mode, "idle"))
        idle();
    else if (!strcmp(mode, "flood"))
        flood();
    else
        fail("no mode %s", mode);
    return 0;
}
