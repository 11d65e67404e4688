/* A WAN between two network namespaces without netem: one TUN device in each, this program between.
 * wan [-d one-way delay ms] [-p loss probability] [-r Mbit/s] [-q queue KiB] [-m mtu] [-s seed] NS_A NS_B
 *   NS_A gets wan0 10.99.0.1, NS_B gets wan0 10.99.0.2 (both namespaces must exist: ip netns add).
 * Each direction: drop with probability p, then a byte-limited FIFO drained at rate r (tail drop),
 * then a constant delay d.  Prints READY when both devices are up, counters at SIGINT/SIGTERM.
 * Build: cc -O2 -pthread -o wan wan.c -lm */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static double delay_ms = 25, loss = 0, mbit = 1000, queue_kib = 0;
static int mtu = 1500;
static uint64_t seed = 1;
typedef struct { uint64_t at; uint32_t len; char *b; } Pkt;
typedef struct { int in, out; uint64_t rng, pk, by, lost, tail, late; } Dir;
#define RING (1 << 18)

static void die(const char *m) { perror(m); exit(1); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static double rnd(uint64_t *s) { *s ^= *s << 13; *s ^= *s >> 7; *s ^= *s << 17; return (*s >> 11) * 0x1p-53; }

static int tun(const char *ns, int host) {
  char p[300]; snprintf(p, sizeof p, "/run/netns/%s", ns);
  int n = open(p, O_RDONLY | O_CLOEXEC), fd;
  if (n < 0 || setns(n, CLONE_NEWNET)) die(p);
  close(n);
  if ((fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) die("/dev/net/tun");
  struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  strcpy(r.ifr_name, "wan0");
  if (ioctl(fd, TUNSETIFF, &r)) die("TUNSETIFF");
  snprintf(p, sizeof p, "ip link set lo up; ip addr add 10.99.0.%d/24 dev wan0; ip link set wan0 mtu %d txqueuelen 10000 up", host, mtu);
  if (system(p)) die("ip");
  return fd;
}
static _Noreturn void *run(void *v) { /* one direction: a ring of packets in order of their release time */
  Dir *d = v; Pkt *q = calloc(RING, sizeof *q); uint32_t h = 0, t = 0; uint64_t free_at = 0;
  double ns_per_byte = 8e3 / mbit; uint64_t dly = delay_ms * 1e6, qmax = queue_kib * 1024 * ns_per_byte;
  prctl(PR_SET_TIMERSLACK, 1);
  for (;;) {
    uint64_t n = now(); struct timespec ts, *tp = 0;
    if (h != t) { uint64_t w = q[h % RING].at > n ? q[h % RING].at - n : 0; ts.tv_sec = w / 1000000000; ts.tv_nsec = w % 1000000000; tp = &ts; }
    struct pollfd f = {d->in, POLLIN, 0};
    ppoll(&f, 1, tp, 0);
    n = now();
    for (int i = 0; i < 64 && h != t && q[h % RING].at <= n; i++, h++) {
      Pkt *k = &q[h % RING];
      if (n - k->at > 1000000) d->late++;
      if (write(d->out, k->b, k->len) < 0) d->tail++;
      free(k->b);
    }
    if (f.revents & POLLIN) for (int i = 0; i < 64; i++) {
      char b[65536]; ssize_t l = read(d->in, b, sizeof b);
      if (l <= 0) break;
      d->pk++; d->by += l;
      if (loss > 0 && rnd(&d->rng) < loss) { d->lost++; continue; }
      n = now(); if (free_at < n) free_at = n;
      if (free_at - n > qmax || t - h >= RING) { d->tail++; continue; }
      free_at += l * ns_per_byte;
      Pkt *k = &q[t++ % RING]; k->at = free_at + dly; k->len = l; k->b = malloc(l); memcpy(k->b, b, l);
    }
  }
}
int main(int argc, char **argv) {
  for (int o; (o = getopt(argc, argv, "d:p:r:q:m:s:")) > 0;)
    switch (o) {
    case 'd': delay_ms = atof(optarg); break; case 'p': loss = atof(optarg); break; case 'r': mbit = atof(optarg); break;
    case 'q': queue_kib = atof(optarg); break; case 'm': mtu = atoi(optarg); break; case 's': seed = atoll(optarg); break;
    default: return 2;
    }
  if (argc - optind != 2) return fprintf(stderr, "usage: wan [-d ms] [-p loss] [-r Mbit/s] [-q KiB] [-m mtu] [-s seed] NS_A NS_B\n"), 2;
  if (!queue_kib) queue_kib = mbit * 1e6 / 8 * delay_ms * 2 / 1e3 / 1024; /* one bandwidth-delay product */
  if (queue_kib < 64) queue_kib = 64;
  int a = tun(argv[optind], 1), b = tun(argv[optind + 1], 2);
  sigset_t s; sigemptyset(&s); sigaddset(&s, SIGINT); sigaddset(&s, SIGTERM); pthread_sigmask(SIG_BLOCK, &s, 0);
  static Dir d[2]; d[0] = (Dir){.in = a, .out = b, .rng = seed * 0x9E3779B97F4A7C15ull | 1}; d[1] = (Dir){.in = b, .out = a, .rng = (seed + 77) * 0xD1B54A32D192ED03ull | 1};
  /* Before everybody else: a packet that waits for a processor arrives late.  Threads inherit it. */
  if (sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 1})) perror("no real-time priority");
  pthread_t th; for (int i = 0; i < 2; i++) pthread_create(&th, 0, run, &d[i]);
  printf("READY\n"); fflush(stdout);
  int g; sigwait(&s, &g);
  for (int i = 0; i < 2; i++) printf("%s packets %lu bytes %lu lost %lu tail-dropped %lu late>1ms %lu\n", i ? "B->A" : "A->B", d[i].pk, d[i].by, d[i].lost, d[i].tail, d[i].late);
  return 0;
}
