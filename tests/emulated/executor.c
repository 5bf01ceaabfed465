/* Replays tables of the executor with several threads and compares with the same work done in turn.
 *
 * Each phase has two parts that read what the phase before has written, all over it, so a chunk
 * that is lost, run twice, or run before its fence changes the result. The layouts are those of
 * executor.ll. Exits with 1 and a message at the first difference.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS = 3, PHASES = 40, GROUPS = 53, REPLAYS = 150, CHUNKS = 16 };

extern void replay(void *control, void *table);
extern void retire(void *control, void *table);
extern void stop(void *control);
extern void worker(void *control);

typedef void Kernel(void **arguments, int64_t first, int64_t last);
typedef struct { Kernel *function; void **arguments; int64_t groups, chunks; } Part;
typedef struct { int64_t first_part, part_count, chunks; } Phase;
typedef struct { int64_t epoch, phase_count; Phase *phases; Part *parts; void *counters; } Table;

static _Alignas(128) char control[512];
static int64_t memory[2][2 * GROUPS];

/* out[g] of the half of this part: a mixture of what three others wrote, and of its own number. */
static void mix(void **arguments, int64_t first, int64_t last) {
    const int64_t *in = arguments[0];
    int64_t *out = arguments[1], salt = (int64_t)arguments[2];
    for (int64_t g = first; g < last; g++)
        out[g] += 31 * in[g] + in[(7 * g + salt) % (2 * GROUPS)] + in[2 * GROUPS - 1 - g] + salt;
}

static void *work(void *nothing) {
    worker(control);
    return nothing;
}

static void run_in_turn(int64_t data[2][2 * GROUPS]) {
    for (int64_t phase = 0; phase < PHASES; phase++)
        for (int64_t half = 0; half < 2; half++) {
            void *arguments[] = {
                data[phase % 2], data[1 - phase % 2] + half * GROUPS, (void *)(2 * phase + half)
            };
            mix(arguments, 0, GROUPS);
        }
}

static Table *make_table(void) {
    Table *table = aligned_alloc(128, 128);
    Phase *phases = calloc(PHASES, sizeof *phases);
    Part *parts = calloc(2 * PHASES, sizeof *parts);
    void *counters = aligned_alloc(128, 128 * PHASES);
    memset(counters, 0, 128 * PHASES);
    for (int64_t phase = 0; phase < PHASES; phase++) {
        phases[phase] = (Phase){2 * phase, 2, CHUNKS + 1};
        for (int64_t half = 0; half < 2; half++) {
            void **arguments = calloc(3, sizeof *arguments);
            arguments[0] = memory[phase % 2];
            arguments[1] = memory[1 - phase % 2] + half * GROUPS;
            arguments[2] = (void *)(2 * phase + half);
            /* One part in many chunks, and one that a single thread takes whole. */
            parts[2 * phase + half] = (Part){mix, arguments, GROUPS, half ? 1 : CHUNKS};
        }
    }
    *table = (Table){0, PHASES, phases, parts, counters};
    return table;
}

int main(void) {
    pthread_t threads[WORKERS];
    pthread_mutex_init((pthread_mutex_t *)(control + 256), NULL);
    pthread_cond_init((pthread_cond_t *)(control + 384), NULL);
    for (int k = 0; k < WORKERS; k++) pthread_create(&threads[k], NULL, work, NULL);
    int64_t expected[2][2 * GROUPS];
    for (int k = 0; k < 2 * GROUPS; k++) memory[0][k] = expected[0][k] = k;
    memset(expected[1], 0, sizeof expected[1]);
    Table *tables[] = {make_table(), make_table()};
    for (int k = 0; k < REPLAYS; k++) {
        if (k % 50 == 49) usleep(100000); /* long enough for the workers to fall asleep */
        replay(control, tables[k % 3 == 0]);
        run_in_turn(expected);
        if (memcmp(memory, expected, sizeof memory)) {
            fprintf(stderr, "replay %d differs\n", k);
            return 1;
        }
    }
    retire(control, tables[0]);
    retire(control, tables[1]);
    stop(control);
    for (int k = 0; k < WORKERS; k++) pthread_join(threads[k], NULL);
    return 0;
}
