// Storing vectors past the caches of a CPU.
//
// A store into a cache reads the line first. Of a tensor that no cache can hold that is a third of
// what a copy moves, and it drives out what others could use.
//
// STREAM(v, p): STOREV(v, p).
// PAST_CACHES: past the caches where the compiler has a way to say so, and p is aligned as the
//              vector is, which views into other tensors need not be. fp32 only. The other store is
//              a vstore, since LLVM makes two plain ones a single one that goes into the caches.

#define STREAM(v, p) STOREV(v, p)
#if defined(PAST_CACHES) && defined(__has_builtin) && VEC > 1
#if __has_builtin(__builtin_nontemporal_store)
#undef STREAM
#define STREAM(v, p)                                                                               \
    do {                                                                                           \
        if ((size_t)(p) % sizeof(F) == 0)                                                          \
            __builtin_nontemporal_store((v), (__global F *)(p));                                   \
        else                                                                                       \
            GLUE(vstore, VEC)((v), 0, (p));                                                        \
    } while (0)
#endif
#endif
