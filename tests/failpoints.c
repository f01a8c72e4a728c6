/* Interposes the calls by which a process changes a disk (LD_PRELOAD), counts those below chosen folders, and at the
   n-th of them fails, kills, signals or waits; or records all of them, with their bytes, in a journal.
   Nothing happens before `failpoints_arm`; the counter is that of the process which arms it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, SYNC = 4, RENAME = 8, MKDIR = 16, UNLINK = 32, TRUNCATE = 64, LOCK = 128, LINK = 256 };
enum { COUNT, FAIL, KILL, SIGNAL, SLEEP };

static char roots[8][PATH_MAX];
static int n_roots, mask, action, value, sticky, journal = -1;
static long nth, count, owner;

#define REAL(type, name, ...)                              \
    static type (*real)(__VA_ARGS__);                      \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static long real_write(int fd, const void *data, size_t bytes) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real(fd, data, bytes);
}

/* Counts of calls; where a journal is kept, its lines are: operation, path, other path, offset, bytes, the bytes. */
long failpoints_count(void) { return count; }

void failpoints_arm(const char *folders, int of, long at, int what, int number, int stays, const char *into) {
    char copy[8 * PATH_MAX], *rest = copy;
    snprintf(copy, sizeof copy, "%s", folders);
    n_roots = 0;
    for (char *each; n_roots < 8 && (each = strsep(&rest, ":"));) snprintf(roots[n_roots++], PATH_MAX, "%s", each);
    journal = -1;
    owner = 0;
    int handle = *into ? open(into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    mask = of, nth = at, action = what, value = number, sticky = stays, count = 0, journal = handle, owner = getpid();
}

static int below(const char *path) {
    for (int n = 0; n < n_roots; n++) {
        size_t length = strlen(roots[n]);
        if (!strncmp(path, roots[n], length) && (path[length] == '/' || !path[length])) return 1;
    }
    return 0;
}

static void of_handle(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void of_name(int folder, const char *name, char *path) { /* the folder resolved, the last part as it is */
    char whole[PATH_MAX * 2], above[PATH_MAX];
    if (name[0] == '/')
        snprintf(whole, sizeof whole, "%s", name);
    else {
        if (folder == AT_FDCWD) {
            if (!getcwd(above, sizeof above)) above[0] = 0;
        } else
            of_handle(folder, above);
        snprintf(whole, sizeof whole, "%s/%s", above, name);
    }
    while (strlen(whole) > 1 && whole[strlen(whole) - 1] == '/') whole[strlen(whole) - 1] = 0;
    char *last = strrchr(whole, '/');
    if (last && last != whole) {
        *last = 0;
        if (realpath(whole, above))
            snprintf(path, PATH_MAX, "%s/%s", above, last + 1);
        else
            snprintf(path, PATH_MAX, "%s/%s", whole, last + 1);
    } else
        snprintf(path, PATH_MAX, "%s", whole);
}

static void record(const char *name, const char *path, const char *other, long offset, const void *data, size_t bytes) {
    if (journal < 0) return;
    char line[3 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", name, path, other, offset, data ? bytes : 0);
    real_write(journal, line, length);
    if (data) real_write(journal, data, bytes);
}

/* Whether the call is to fail, with errno set; may not return. `partial`: half of what is written reaches the disk. */
static int strikes(int kind, const char *path, int fd, const void *data, size_t bytes) {
    if (!owner || owner != getpid() || !(mask & kind) || !below(path)) return 0;
    long here = __sync_add_and_fetch(&count, 1);
    if (!(here == nth || (sticky && nth && here > nth))) return 0;
    if (action == KILL) {
        if (data && bytes > 1) real_write(fd, data, bytes / 2);
        kill(getpid(), SIGKILL);
        pause();
    } else if (action == SIGNAL) {
        kill(getpid(), value);
    } else if (action == SLEEP) {
        struct timespec time = {value / 1000, (value % 1000) * 1000000L};
        nanosleep(&time, NULL);
    } else if (action == FAIL) {
        if (value == ENOSPC || value == EDQUOT) /* a full disk still gives space back */
            if (kind == UNLINK || kind == LOCK) return 0;
        errno = value;
        return 1;
    }
    return 0;
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPENED(name, call)                                                          \
    int mode = 0;                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                          \
        va_list list;                                                               \
        va_start(list, flags);                                                      \
        mode = va_arg(list, int);                                                   \
        va_end(list);                                                               \
    }                                                                               \
    char path[PATH_MAX] = "";                                                       \
    if (owner && writes(flags)) {                                                   \
        of_name(folder, file, path);                                                \
        if (strikes(OPEN, path, -1, NULL, 0)) return -1;                            \
    }                                                                               \
    int handle = call;                                                              \
    if (owner && handle >= 0 && writes(flags) && below(path))                       \
        record("open", path, flags &O_TRUNC ? "truncate" : "", 0, NULL, 0);         \
    return handle;

int open(const char *file, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    int folder = AT_FDCWD;
    OPENED(open, real(file, flags, mode))
}
int open64(const char *file, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    int folder = AT_FDCWD;
    OPENED(open64, real(file, flags, mode))
}
int openat(int folder, const char *file, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    OPENED(openat, real(folder, file, flags, mode))
}
int openat64(int folder, const char *file, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    OPENED(openat64, real(folder, file, flags, mode))
}

static int written(int fd, const void *data, size_t bytes, long offset) {
    if (!owner || fd == journal) return 0;
    char path[PATH_MAX];
    of_handle(fd, path);
    if (strikes(WRITE, path, fd, data, bytes)) return 1;
    if (journal >= 0 && below(path)) record("write", path, "", offset, data, bytes);
    return 0;
}

ssize_t write(int fd, const void *data, size_t bytes) {
    if (written(fd, data, bytes, journal < 0 ? 0 : lseek(fd, 0, SEEK_CUR))) return -1;
    return real_write(fd, data, bytes);
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    return written(fd, data, bytes, offset) ? -1 : real(fd, data, bytes, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return written(fd, data, bytes, offset) ? -1 : real(fd, data, bytes, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int number) { /* one part at a time: a short write is legal */
    return number ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}
size_t fwrite(const void *data, size_t size, size_t number, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    return written(fileno(file), data, size * number, journal < 0 ? 0 : ftell(file)) ? 0 : real(data, size, number, file);
}

#define BY_HANDLE(type, name, kind, args, ...)                  \
    type name args {                                            \
        REAL(type, name, __VA_ARGS__);                          \
        char path[PATH_MAX] = "";                               \
        if (owner) of_handle(fd, path);                         \
        if (owner && strikes(kind, path, fd, NULL, 0)) return -1;
#define END(...)                 \
    return real(__VA_ARGS__);    \
    }

BY_HANDLE(int, fsync, SYNC, (int fd), int)
    if (owner && below(path)) record("fsync", path, "", 0, NULL, 0);
END(fd)
BY_HANDLE(int, fdatasync, SYNC, (int fd), int)
    if (owner && below(path)) record("fsync", path, "", 0, NULL, 0);
END(fd)
BY_HANDLE(int, flock, LOCK, (int fd, int how), int, int)
END(fd, how)
BY_HANDLE(int, ftruncate, TRUNCATE, (int fd, off_t bytes), int, off_t)
    if (owner && below(path)) record("truncate", path, "", bytes, NULL, 0);
END(fd, bytes)
BY_HANDLE(int, ftruncate64, TRUNCATE, (int fd, off64_t bytes), int, off64_t)
    if (owner && below(path)) record("truncate", path, "", bytes, NULL, 0);
END(fd, bytes)
ssize_t sendfile(int fd, int from, off_t *offset, size_t bytes) { /* callers fall back to read and write */
    (void)fd, (void)from, (void)offset, (void)bytes;
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int fd, int from, off64_t *offset, size_t bytes) {
    (void)fd, (void)from, (void)offset, (void)bytes;
    errno = EINVAL;
    return -1;
}

static int moved(int from, const char *old, int to, const char *new, int kind, const char *name) {
    if (!owner) return 0;
    char source[PATH_MAX], target[PATH_MAX];
    of_name(from, old, source);
    of_name(to, new, target);
    if (strikes(kind, below(source) ? source : target, -1, NULL, 0)) return 1;
    if (below(target)) record(name, source, target, 0, NULL, 0);
    return 0;
}
int rename(const char *old, const char *new) {
    REAL(int, rename, const char *, const char *);
    return moved(AT_FDCWD, old, AT_FDCWD, new, RENAME, "rename") ? -1 : real(old, new);
}
int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, renameat, int, const char *, int, const char *);
    return moved(from, old, to, new, RENAME, "rename") ? -1 : real(from, old, to, new);
}
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return moved(from, old, to, new, RENAME, "rename") ? -1 : real(from, old, to, new, flags);
}
int link(const char *old, const char *new) {
    REAL(int, link, const char *, const char *);
    return moved(AT_FDCWD, old, AT_FDCWD, new, LINK, "link") ? -1 : real(old, new);
}
int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return moved(from, old, to, new, LINK, "link") ? -1 : real(from, old, to, new, flags);
}

static int named(int folder, const char *file, int kind, const char *name) {
    if (!owner) return 0;
    char path[PATH_MAX];
    of_name(folder, file, path);
    if (strikes(kind, path, -1, NULL, 0)) return 1;
    if (below(path)) record(name, path, "", 0, NULL, 0);
    return 0;
}
int mkdir(const char *file, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return named(AT_FDCWD, file, MKDIR, "mkdir") ? -1 : real(file, mode);
}
int mkdirat(int folder, const char *file, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    return named(folder, file, MKDIR, "mkdir") ? -1 : real(folder, file, mode);
}
int unlink(const char *file) {
    REAL(int, unlink, const char *);
    return named(AT_FDCWD, file, UNLINK, "unlink") ? -1 : real(file);
}
int rmdir(const char *file) {
    REAL(int, rmdir, const char *);
    return named(AT_FDCWD, file, UNLINK, "rmdir") ? -1 : real(file);
}
int unlinkat(int folder, const char *file, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    return named(folder, file, UNLINK, flags & AT_REMOVEDIR ? "rmdir" : "unlink") ? -1 : real(folder, file, flags);
}
