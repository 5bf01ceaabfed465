/* Calls one compiled kernel, as the executor of the cpu device would, with arguments from a file.
 *
 *     runner LIBRARY ENTRY FILE
 *
 * FILE, all words i64: groups, number of regions, number of arguments; each region's bytes; for
 * each argument its region, or -1 and its value; then what is in the regions. They are written
 * back to FILE. The groups run in two calls, as chunks do.
 *
 * A region is followed by bytes that nothing may write and that nobody may be surprised to read.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARGIN = 256, ALIGN = 256, UNTOUCHED = 0xA5 };

typedef void Kernel(void **arguments, int64_t first, int64_t last);

static int fail(const char *what, const char *cause) {
    fprintf(stderr, "%s: %s\n", what, cause);
    return 1;
}

static int64_t word(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) exit(fail("arguments", "too short"));
    return value;
}

int main(int count, char **words) {
    if (count != 4) return fail("usage", "runner LIBRARY ENTRY FILE");
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) return fail("library", dlerror());
    Kernel *kernel = (Kernel *)dlsym(library, words[2]);
    if (!kernel) return fail("entry", dlerror());

    FILE *file = fopen(words[3], "r+b");
    if (!file) return fail("arguments", words[3]);
    int64_t groups = word(file), region_count = word(file), argument_count = word(file);
    int64_t *sizes = calloc(region_count + 1, sizeof *sizes);
    unsigned char **regions = calloc(region_count + 1, sizeof *regions);
    void **arguments = calloc(argument_count + 1, sizeof *arguments);
    for (int64_t k = 0; k < region_count; k++) {
        sizes[k] = word(file);
        int64_t whole = (sizes[k] + MARGIN + ALIGN - 1) / ALIGN * ALIGN;
        regions[k] = aligned_alloc(ALIGN, whole);
        memset(regions[k], UNTOUCHED, whole);
    }
    for (int64_t k = 0; k < argument_count; k++) {
        int64_t region = word(file), value = word(file);
        arguments[k] = region < 0 ? (void *)value : regions[region];
    }
    long contents = ftell(file);
    for (int64_t k = 0; k < region_count; k++)
        if (fread(regions[k], 1, sizes[k], file) != (size_t)sizes[k])
            return fail("arguments", "too short");

    kernel(arguments, 0, groups / 2);
    kernel(arguments, groups / 2, groups);

    fseek(file, contents, SEEK_SET);
    for (int64_t k = 0; k < region_count; k++) {
        for (int64_t at = sizes[k]; at < sizes[k] + MARGIN; at++)
            if (regions[k][at] != UNTOUCHED) return fail("kernel", "wrote past the end of a region");
        fwrite(regions[k], 1, sizes[k], file);
    }
    return fclose(file) ? fail("arguments", "cannot be written") : 0;
}
