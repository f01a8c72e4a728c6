/* Calls by two and by eight threads in turn, with pauses wherever a thread looks at what others write: each worker does
 * each call once. Prints the call that went wrong; a worker that waits for ever is the caller's time limit. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static __thread unsigned dice;
static void dawdle(void) {
    dice = dice * 1664525u + 1013904223u + (unsigned)(size_t)&dice;
    if ((dice >> 16) % 800 == 0) usleep(60);
}
#define __atomic_load_n(word, order) (dawdle(), __atomic_load_n(word, order))
#include "../../pretune/native/kernels.c"

static int runs[8];
static void count(Worker *worker, void *argument) {
    (void)argument;
    __atomic_add_fetch(&runs[worker->index], 1, __ATOMIC_SEQ_CST);
}

int main(void) {
    for (int call = 0; call < 4000; call++) {
        int threads = rand() % 2 ? 8 : 2;
        memset(runs, 0, sizeof runs);
        run(count, NULL, threads);
        for (int n = 0; n < 8; n++)
            if (runs[n] != (n < threads)) return printf("call %d by %d threads: worker %d ran %d times\n", call, threads, n, runs[n]), 1;
    }
    return 0;
}
