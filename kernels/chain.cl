// A chain of launches in one; edgerun/chain.py puts the kernels, as functions, in front.
//
// Global size: any number of work-groups of one work-item, best as many as there are cores. Every
// work-group has a share of the tiles of a launch: neighbours, that lie where its share of the
// launch before lies, so that most of what a core reads is in its own cache. It takes the tiles of
// its own share first, then of others'; then it waits until all tiles of the launch are done. A
// work-item that takes no tile is waited for by nobody.
//
// Rows of the table that are no launches choose experts. CHOOSE, behind a route, keeps what it has
// chosen, for it may be written over in the arena, and a work-group that comes late must walk like
// the others. EXPERT, in front of the launches of an expert, leaves them out, or lets them run for
// the next sample that has chosen it; the last of them leads back. It stops the chain before an
// expert that is `cold`, whose weights the host has read from disk before it goes on from there.
//
// CASES: the cases of a switch over the variants; each unpacks `arg` and calls its function for
//        EACH_ITEM; of CHOOSE and EXPERT if there are mixtures.
// HEAD:  ints of a row of the table before the arguments.
// LINE:  ints from a counter to the next, so that no two share a cache line.

#ifndef CASES
#define CASES
#define HEAD 7
#define LINE 32
#endif

// A work-group's counter goes on from launch to launch: `first` is where the launch starts. So one
// that comes late, when a launch is over, finds its counter beyond and takes nothing. Counters are
// read and written by all; fences keep the compiler from moving the tensors' loads and stores
// across them. Returns the tile that is taken, or -1, as for a share without tiles, whose counter
// lags.
int take_of(__global int *counter, const int first, const int count) {
    int at = *(volatile __global int *)counter;
    while (count > 0 && at < first + count) {
        const int tile = max(at, first), found = atomic_cmpxchg(counter, at, tile + 1);
        if (found == at) return tile - first;
        at = found;
    }
    return -1;
}

APART
int take(__global int *counters, const int own, const int groups, const int first, const int share,
         const int tiles) {
    mem_fence(CLK_GLOBAL_MEM_FENCE);
    int owner = own, tile = -1;
    do {
        const int before = owner * share;
        tile = take_of(counters + owner * LINE, first, min(share, tiles - before));
        if (tile >= 0) tile += before;
        if (++owner == groups) owner = 0;
    } while (tile < 0 && owner != own);
    mem_fence(CLK_GLOBAL_MEM_FENCE);
    return tile;
}

// For every work-item of the tiles that are taken, until none is left: `item` is its global id, and
// in s3 how many of its tile are left. done counts the tiles.
#define TAKE_TILE take(counters, own, groups, first, share, tiles)
#define EACH_ITEM                                                                                  \
    for (int tile = TAKE_TILE; tile >= 0; tile = TAKE_TILE, done++)                                \
        for (int4 item = first_item(tile, per_tile, items); item.s3 > 0;                           \
             item = next_item(item, items))

APART
int4 first_item(const int tile, const int per_tile, const int4 items) {
    const int at = tile * per_tile, row = at / items.s0, plane = row / items.s1;
    return (int4)(at - row * items.s0, row - plane * items.s1, plane,
                  min(per_tile, items.s0 * items.s1 * items.s2 - at));
}

int4 next_item(int4 item, const int4 items) {
    item.s3--;
    if (++item.s0 == items.s0) {
        item.s0 = 0;
        if (++item.s1 == items.s1) {
            item.s1 = 0;
            item.s2++;
        }
    }
    return item;
}

// The next sample that has chosen an expert, behind `sample`; -1 if there is none.
int next_of(__global const int *chosen, int sample, const int batch, const int k, const int expert,
            const int every) {
    while (++sample < batch) {
        if (every) return sample;
        for (int r = 0; r < k; r++)
            if (chosen[sample * k + r] == expert) return sample;
    }
    return -1;
}

// arg: buffer and offset of chosen, its elements, where in counters it is kept
#define CHOOSE                                                                                     \
    EACH_ITEM for (int n = 0; n < arg[2]; n++)                                                     \
        counters[arg[3] + n] = ((__global const int *)(buffers[arg[0]] + (uint)arg[1]))[n]

// arg: cold; where chosen is kept; batch, k, expert; rows up to the next expert; buffer and offset
//      of the slot, used if there is a tile
#define EXPERT                                                                                     \
    sample = next_of(counters + arg[1], sample, arg[2], arg[3], arg[4], every);                    \
    if (sample < 0 || (arg[0] && !every)) {                                                        \
        if (sample >= 0) stopped = launch;                                                         \
        step = sample < 0 ? arg[5] : launches;                                                     \
        share = tiles = 0;                                                                         \
    }                                                                                              \
    EACH_ITEM *(__global int *)(buffers[arg[6]] + (uint)arg[7]) = sample

// What the kernel does; PoCL compiles the text of a kernel three times. The parameters are those of
// the kernel, the work-group's number and how many there are.
APART
void walk(__global uchar *const *buffers, __global int *counters, __global const int *table,
          const int launches, const int row, const int every, const int own, const int groups) {
    __global int *finished = counters + groups * LINE, *through = finished + LINE;
    int first = 0, before = 0;  // in the counters, when a launch starts
    int sample = -1, stopped = -1;
    // Work-group 0 goes last, and does alone what follows the last launch of several tiles: where
    // PoCL 3.1 keeps its threads apart, that one most often has the CPU of the one that waits for
    // it all, which then is woken sooner: 112 instead of 124 us of a run.
    int end = launches;
    while (own > 0 && end > 0 && table[(end - 1) * row + 5] == 1 && table[(end - 1) * row + 6] == 1)
        end--;
    for (int launch = 0, step; launch < end; launch += step) {
        __global const int *head = table + launch * row, *arg = head + HEAD;
        const int4 items = (int4)(head[1], head[2], head[3], 0);
        const int per_tile = head[4];
        int tiles = head[5], share = (tiles + groups - 1) / groups, done = 0;
        step = head[6];
        switch (head[0]) {
            CASES
        }
        mem_fence(CLK_GLOBAL_MEM_FENCE);
        first += share;
        before += tiles;
        if (done > 0) atomic_add(finished, done);
        if (own > 0 && launch + step >= end) break;
        while (*(volatile __global int *)finished < before) {}
        mem_fence(CLK_GLOBAL_MEM_FENCE);
    }
    if (atomic_inc(through) == groups - 1) {
        for (int k = 0; k < groups + 2; k++)
            counters[k * LINE] = 0;
        counters[(groups + 2) * LINE] = stopped;
    }
}

// b0 .. b7: arena and segments.
// counters [work-groups + 3][LINE]: tiles taken of every work-group's share, in all launches so
//          far; tiles done; work-groups that are through; these are 0 before and after. At last
//          the row where the chain stopped, or -1.
// behind it, in CHOOSE, what was chosen; at table_at [launches][row]: variant, global size,
//          work-items of a tile, tiles, rows to the next one, arguments.
// every: every expert runs for every sample.
// The hint is that of conv_integer.cl.
__attribute__((reqd_work_group_size(1, 1, 1), vec_type_hint(float16)))
__kernel void chain(
        __global uchar *b0, __global uchar *b1, __global uchar *b2, __global uchar *b3,
        __global uchar *b4, __global uchar *b5, __global uchar *b6, __global uchar *b7,
        __global int *counters, const int table_at, const int launches, const int row,
        const int every) {
    __global uchar *const buffers[8] = {b0, b1, b2, b3, b4, b5, b6, b7};
    walk(buffers, counters, counters + table_at, launches, row, every, get_global_id(0),
         get_global_size(0));
}
