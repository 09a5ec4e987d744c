/* Makes reads and writes short, truly: the kernel is asked for less, so what it reports has
 * happened. ESKER_SHORT is the number of the call to shorten, or 0 for every one. Half of a call is
 * left, in whole sectors; calls of one sector are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/uio.h>

static atomic_long calls;

static size_t shorten(size_t len) {
    const char *wanted = getenv("ESKER_SHORT");
    size_t half = len / 2 / 512 * 512;
    if (!wanted || half == 0) return len;
    long number = atomic_fetch_add(&calls, 1) + 1;
    long at = atol(wanted);
    return at == 0 || at == number ? half : len;
}

#define PLAIN(name, buffer)                                                                  \
    ssize_t name(int fd, buffer data, size_t len, off_t offset) {                            \
        static ssize_t (*next)(int, buffer, size_t, off_t);                                  \
        if (!next) next = (ssize_t (*)(int, buffer, size_t, off_t))dlsym(RTLD_NEXT, #name);  \
        return next(fd, data, shorten(len), offset);                                         \
    }
PLAIN(pread, void *)
PLAIN(pread64, void *)
PLAIN(pwrite, const void *)
PLAIN(pwrite64, const void *)

/* The parts of a vector, cut down to the shortened length. */
static int cut(const struct iovec *from, int count, struct iovec *to) {
    size_t len = 0;
    for (int i = 0; i < count; i++) len += from[i].iov_len;
    size_t left = shorten(len);
    int used = 0;
    while (used < count && left > 0) {
        to[used] = from[used];
        if (to[used].iov_len > left) to[used].iov_len = left;
        left -= to[used].iov_len;
        used++;
    }
    return used;
}

#define MOST 1024
#define VECTORED(name)                                                                       \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset, int flags) {    \
        static ssize_t (*next)(int, const struct iovec *, int, off_t, int);                  \
        if (!next)                                                                           \
            next = (ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, #name); \
        struct iovec less[MOST];                                                             \
        if (count > MOST) return next(fd, parts, count, offset, flags);                      \
        int used = cut(parts, count, less);                                                  \
        return next(fd, less, used, offset, flags);                                          \
    }
VECTORED(preadv2)
VECTORED(pwritev2)
VECTORED(preadv64v2)
VECTORED(pwritev64v2)
