/* Load for message servers: 4-byte big-endian length and body, by epoll, far faster than what it measures.
 *
 *   load echo PORT CONNECTIONS IN_FLIGHT BODY SECONDS    messages per second, and the 50th and 99th percentile in us
 *   load oneway PORT BODY SECONDS                        messages per second that the server has taken
 *   load idle PORT CONNECTIONS                           opens them, says "open", holds them until its input ends
 *   load flood PORT BODY SECONDS                         floods on one connection, measures another: as echo
 *
 * Replies are compared with what was sent. One line: RATE P50 P99.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1000000 /* microseconds */
#define CHUNK (1 << 20)

static uint32_t histogram[SLOTS];
static int port;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int dial(int number) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    from.sin_addr.s_addr = htonl(0x7f000002 + number / 20000); /* ports run out, addresses do not */
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (void *)&from, sizeof from) || connect(fd, (void *)&to, sizeof to)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static char *frames(int count, int body) {
    char *out = malloc((size_t)count * (body + 4));
    uint32_t length = htonl(body);
    for (int i = 0; i < count; i++) {
        char *frame = out + (size_t)i * (body + 4);
        memcpy(frame, &length, 4);
        memset(frame + 4, 'x', body);
    }
    return out;
}

static void write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0) fail("write");
        data += n, size -= n;
    }
}

static double percentile(long total, double share) {
    long seen = 0;
    for (int i = 0; i < SLOTS; i++)
        if ((seen += histogram[i]) >= share * total) return i;
    return SLOTS;
}

static void echo(int connections, int in_flight, int body, double seconds) {
    int frame = body + 4, poller = epoll_create1(0);
    char *out = frames(in_flight, body), *in = malloc(CHUNK);
    int *fds = calloc(connections, sizeof *fds);
    long *got = calloc(connections, sizeof *got), total = 0;
    double *asked = calloc(connections, sizeof *asked), end;
    struct epoll_event events[1024];
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        fds[i] = dial(i);
        epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event);
    }
    double start = now();
    for (int i = 0; i < connections; i++) asked[i] = now(), write_all(fds[i], out, (size_t)in_flight * frame);
    for (end = start + seconds; now() < end;) {
        int ready = epoll_wait(poller, events, 1024, 100);
        for (int k = 0; k < ready; k++) {
            int i = events[k].data.u32;
            ssize_t n = read(fds[i], in, CHUNK);
            if (n <= 0) fail("the server hung up");
            long offset = got[i] % frame, left = n; /* the replies are the frames we sent, over and over */
            for (char *at = in; left;) {
                long part = frame - offset < left ? frame - offset : left;
                if (memcmp(at, out + offset, part)) fail("a wrong reply");
                at += part, left -= part, offset = 0;
            }
            long before = got[i] / frame, done = (got[i] += n) / frame - before;
            if (done) {
                double t = now();
                long us = (t - asked[i]) * 1e6;
                histogram[us < SLOTS ? us : SLOTS - 1] += done;
                asked[i] = t;
                total += done;
                write_all(fds[i], out, done * frame);
            }
        }
    }
    printf("%.0f %.0f %.0f\n", total / (now() - start), percentile(total, 0.5), percentile(total, 0.99));
}

static void one_way(int body, double seconds) {
    int count = CHUNK / (body + 4), fd = dial(0);
    char *out = frames(count, body), last;
    long sent = 0;
    double start = now();
    while (now() < start + seconds) write_all(fd, out, (size_t)count * (body + 4)), sent += count;
    shutdown(fd, SHUT_WR);
    while (read(fd, &last, 1) > 0) /* the server hangs up when it has taken everything */
        ;
    printf("%.0f 0 0\n", sent / (now() - start));
}

static void idle(int connections) {
    for (int i = 0; i < connections; i++) {
        int fd = dial(i);
        char reply[5];
        if (i % 2) write_all(fd, "\0\0\0\1x", 5), recv(fd, reply, 5, MSG_WAITALL); /* half of them have talked */
    }
    puts("open");
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

static void *swallow(void *fd) {
    static char in[CHUNK];
    while (read(*(int *)fd, in, CHUNK) > 0)
        ;
    return 0;
}

static void *flood(void *body) {
    int fd = dial(1), count = CHUNK / (*(int *)body + 4);
    char *out = frames(count, *(int *)body);
    pthread_t reader;
    pthread_create(&reader, 0, swallow, &fd);
    for (;;) write_all(fd, out, (size_t)count * (*(int *)body + 4));
}

int main(int count, char **word) {
    if (count < 4) return 2;
    port = atoi(word[2]);
    if (!strcmp(word[1], "echo")) echo(atoi(word[3]), atoi(word[4]), atoi(word[5]), atof(word[6]));
    if (!strcmp(word[1], "oneway")) one_way(atoi(word[3]), atof(word[4]));
    if (!strcmp(word[1], "idle")) idle(atoi(word[3]));
    if (!strcmp(word[1], "flood")) {
        int body = atoi(word[3]);
        pthread_t thread;
        pthread_create(&thread, 0, flood, &body);
        echo(1, 1, body, atof(word[4]));
    }
    return 0;
}
