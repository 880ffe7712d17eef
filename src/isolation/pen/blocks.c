// Large blocks of ggml's (KV caches, compute buffers) in mappings of their own: when a domain died of a memory fault nothing
// of it may be touched, but these can be given back whole.
#include "pen_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

// Smaller ones are the allocator's.
enum { LEAST = 64 * 1024 };

// In front of each block, on a page of its own.
typedef struct lp_block {
    struct lp_block * next;
    struct lp_block * previous;
    lp_domain * domain;
    size_t bytes;
    // Tells a block from a place of the allocator's that happens to begin a page: that has its own bytes in front of it.
    struct lp_block * itself;
    uint64_t mark;
} lp_block;

enum { PAGE = 4096 };
static const uint64_t MARK = 0x6c6c616d6170656e;

// Guards the lists of all domains. Held for a few instructions, in which nothing can fault, and never while parking: the
// functions are called by threads that polled before.
static pthread_mutex_t lists = PTHREAD_MUTEX_INITIALIZER;

int lp_pen_memalign(void ** place, size_t alignment, size_t size) {
    lp_domain * domain = lp_current_domain();
    if (domain == NULL || size < LEAST || alignment > PAGE) return posix_memalign(place, alignment, size);
    if (lp_pen_injector != NULL && lp_pen_take_armed(LP_IN_MEMALIGN)) return ENOMEM;
    const size_t bytes = PAGE + ((size + PAGE - 1) & ~(size_t) (PAGE - 1));
    lp_block * block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return ENOMEM;
    *block = (lp_block){ .domain = domain, .bytes = bytes, .itself = block, .mark = MARK };
    const int depth = lp_pen_out();
    pthread_mutex_lock(&lists);
    block->next = domain->blocks;
    if (block->next != NULL) block->next->previous = block;
    domain->blocks = block;
    pthread_mutex_unlock(&lists);
    lp_pen_back(depth);
    *place = (char *) block + PAGE;
    return 0;
}

void lp_pen_free(void * place) {
    lp_block * block = (lp_block *) ((char *) place - PAGE);
    if (place == NULL || (uintptr_t) place % PAGE != 0 || block->itself != block || block->mark != MARK) return free(place);
    const int depth = lp_pen_out();
    pthread_mutex_lock(&lists);
    if (block->domain != NULL) {
        if (block->previous != NULL) block->previous->next = block->next;
        else block->domain->blocks = block->next;
        if (block->next != NULL) block->next->previous = block->previous;
    }
    pthread_mutex_unlock(&lists);
    lp_pen_back(depth);
    munmap(block, block->bytes);
}

void lp_domain_free_blocks(lp_domain * domain) {
    pthread_mutex_lock(&lists);
    lp_block * block = domain->blocks;
    domain->blocks = NULL;
    pthread_mutex_unlock(&lists);
    while (block != NULL) {
        lp_block * next = block->next;
        munmap(block, block->bytes);
        block = next;
    }
}

void lp_leave_blocks(lp_domain * domain) {
    pthread_mutex_lock(&lists);
    for (lp_block * block = domain->blocks; block != NULL;) {
        lp_block * next = block->next;
        block->domain = NULL;
        block->next = block->previous = NULL;
        block = next;
    }
    domain->blocks = NULL;
    pthread_mutex_unlock(&lists);
}
