/* The ceiling for anybody: as epoll_loop.py, in C.
 *
 *   epoll_loop echo|count
 */
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 1024
#define SIZE 65536

/* Of one connection that is counted: what came of a length, and what is still to come of its body. */
typedef struct {
    uint64_t messages;
    uint32_t head, left;
    int known;
} counter;

static char buffer[SIZE];
static counter *counters; /* by descriptor */

static void count(counter *it, ssize_t size) {
    for (ssize_t at = 0; at < size || (it->known == 4 && !it->left);) {
        if (it->known < 4) {
            it->head = it->head << 8 | (uint8_t)buffer[at++];
            if (++it->known == 4) it->left = it->head;
        } else {
            uint32_t here = it->left < size - at ? it->left : (uint32_t)(size - at);
            at += here;
            if (!(it->left -= here)) it->messages++, it->known = 0, it->head = 0;
        }
    }
}

static void send_all(int fd, const char *data, ssize_t size) {
    int flags = 0; /* waits, as the Python one does */
    for (ssize_t sent; size > 0 && (sent = send(fd, data, size, flags | MSG_NOSIGNAL)) > 0; size -= sent) data += sent;
}

static void serve(int fd, int echoes) {
    ssize_t size = recv(fd, buffer, SIZE, 0);
    if (size > 0 && echoes) send_all(fd, buffer, size);
    else if (size > 0) count(&counters[fd], size);
    else {
        char answer[12] = {0, 0, 0, 8};
        uint64_t total = htobe64(counters[fd].messages);
        memcpy(answer + 4, &total, 8);
        if (size == 0 && !echoes) send_all(fd, answer, sizeof answer);
        close(fd);
    }
}

int main(int argc, char **argv) {
    int echoes = argc == 2 && !strcmp(argv[1], "echo"), on = 1;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max = files.rlim_max < 1 << 20 ? files.rlim_max : 1 << 20;
    setrlimit(RLIMIT_NOFILE, &files);
    counters = calloc(files.rlim_max, sizeof *counters);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listening};
    if (!counters || bind(listening, (void *)&address, length) || listen(listening, 4096) ||
        getsockname(listening, (void *)&address, &length) || epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event)) {
        perror("epoll_loop");
        return 1;
    }
    printf("127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listening) {
                serve(fd, echoes);
                continue;
            }
            event.data.fd = accept(listening, NULL, NULL);
            if (event.data.fd < 0) continue;
            setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            counters[event.data.fd] = (counter){0};
            epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
        }
    }
}
