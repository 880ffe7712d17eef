// Large blocks of ggml's (weights, KV caches, compute buffers) in mappings of their own: when a domain died of a memory fault
// nothing of it may be touched, but these can be given back whole.
#include "pen_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

// Smaller ones are the allocator's. From HUGE on one has a whole huge page in it, wherever it begins.
enum { LEAST = 64 * 1024, HUGE = 4 * 1024 * 1024 };

// In front of each block, on a page of its own.
typedef struct lp_block {
    struct lp_block * next;
    struct lp_block * previous;
    lp_domain * domain; // NULL: nobody's
    size_t bytes;
} lp_block;

enum { PAGE = 4096 };

// All blocks of all domains: some tens. Whether a place is a block's is looked up here, since what is in front of a place of
// somebody else's allocator must not be read.
static lp_block * blocks;
// Guards it. Held for a few instructions, in which nothing can fault, and never while parking: the functions are called by
// threads that polled before.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local bool for_tensors;

void lp_pen_for_tensors(bool begins) { for_tensors = begins; }

static void unlink_block(lp_block * block) {
    if (block->previous != NULL) block->previous->next = block->next;
    else blocks = block->next;
    if (block->next != NULL) block->next->previous = block->previous;
}

int lp_pen_memalign(void ** place, size_t alignment, size_t size) {
    lp_domain * domain = lp_current_domain();
    if (domain == NULL || size < LEAST || alignment > PAGE) return posix_memalign(place, alignment, size);
    if (lp_pen_injector != NULL && lp_pen_take_armed(LP_IN_MEMALIGN)) return ENOMEM;
    const size_t bytes = PAGE + ((size + PAGE - 1) & ~(size_t) (PAGE - 1));
    lp_block * block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return ENOMEM;
    // Weights are all read for each token, where with small pages a fifth of the time goes into finding them, and weights and caches
    // are all written at first, so that huge pages take no more memory, as they would for compute buffers. A system that has none
    // refuses.
    if (for_tensors && bytes >= HUGE) madvise(block, bytes, MADV_HUGEPAGE);
    *block = (lp_block){ .domain = domain, .bytes = bytes };
    const int depth = lp_pen_out();
    pthread_mutex_lock(&lock);
    block->next = blocks;
    if (blocks != NULL) blocks->previous = block;
    blocks = block;
    pthread_mutex_unlock(&lock);
    lp_pen_back(depth);
    *place = (char *) block + PAGE;
    return 0;
}

// The block that starts there, or NULL. Under the lock.
static lp_block * find_block(const void * place) {
    lp_block * block = blocks;
    while (block != NULL && (char *) block + PAGE != (const char *) place) block = block->next;
    return block;
}

void lp_pen_protect(void * place) {
    const int depth = lp_pen_out();
    pthread_mutex_lock(&lock);
    const lp_block * block = find_block(place);
    pthread_mutex_unlock(&lock);
    lp_pen_back(depth);
    if (block != NULL) mprotect(place, block->bytes - PAGE, PROT_READ);
}

void lp_pen_free(void * place) {
    if (place == NULL || (uintptr_t) place % PAGE != 0) return free(place);
    const int depth = lp_pen_out();
    pthread_mutex_lock(&lock);
    lp_block * block = find_block(place);
    if (block != NULL) unlink_block(block);
    pthread_mutex_unlock(&lock);
    lp_pen_back(depth);
    if (block == NULL) return free(place);
    munmap(block, block->bytes);
}

void lp_domain_free_blocks(lp_domain * domain) {
    lp_block * own = NULL;
    pthread_mutex_lock(&lock);
    for (lp_block *block = blocks, *next; block != NULL; block = next) {
        next = block->next;
        if (block->domain != domain) continue;
        unlink_block(block);
        block->next = own;
        own = block;
    }
    pthread_mutex_unlock(&lock);
    while (own != NULL) {
        lp_block * next = own->next;
        munmap(own, own->bytes);
        own = next;
    }
}

void lp_leave_blocks(lp_domain * domain) {
    pthread_mutex_lock(&lock);
    for (lp_block * block = blocks; block != NULL; block = block->next) {
        if (block->domain == domain) block->domain = NULL;
    }
    pthread_mutex_unlock(&lock);
}
