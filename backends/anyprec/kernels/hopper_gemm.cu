// A layer times any number of rows of x on Hopper, which quantize.cu has sorted by step and made bytes, each at its own width.
//
// A block takes some rows of the layer and up to GRANULES times eight rows of x: four windows of neighbouring granules, each of
// one step, so that a weight is made once for all of them. Its last warp copies planes and x ahead, its warpgroups multiply: 64
// rows of the layer each, the K_GROUPS of them that share rows a unit each in turn. The blocks of a cluster share the columns.
// What several have of one sum they add up at the end. A multiprocessor has one block, which takes one tile of the result after
// another.
//
// Compiled with EACH_STEP(X) and WIDEST as skinny_gemm.cu, GRANULES, ROW_GROUPS and K_GROUPS.

#include "decode.cuh"
#include "hopper.cuh"

constexpr int WINDOWS = GRANULES < 4 ? GRANULES : 4, WINDOW = GRANULES / WINDOWS, TOKENS = 8 * GRANULES;
constexpr int GROUPS = ROW_GROUPS * K_GROUPS, CONSUMERS = 128 * GROUPS, SHARERS = 128 * ROW_GROUPS;
constexpr int MOST_STAGES = 8;
constexpr int REGISTERS = GROUPS == 2 ? 232 : GROUPS == 3 ? 160 : 112;  // of a thread that multiplies
constexpr int FEW_REGISTERS = GROUPS == 2 ? 40 : 32;                   // of one that copies; together what a block begins with
constexpr int SETS = GROUPS == 4 ? 1 : 2;  // of a warp's registers: products take one while the other is made

struct Window {  // neighbouring granules of one step; none where count is 0
    int step, first, count;
};

DEVICE int granules_of(const int *rows, int step) { return (rows[step] + 7) / 8; }

DEVICE int windows_of(const int *rows) {
    int count = 0;
#pragma unroll
    for (int step = 1; step < 9; ++step) count += (granules_of(rows, step) + WINDOW - 1) / WINDOW;
    return count;
}

DEVICE Window window_of(const int *rows, int which) {
    Window found = {0, 0, 0};
    int granule = 0;
#pragma unroll
    for (int step = 1; step < 9; ++step) {
        const int granules = granules_of(rows, step), windows = (granules + WINDOW - 1) / WINDOW;
        if (which >= 0 && which < windows) found = {step, granule + which * WINDOW, min(WINDOW, granules - which * WINDOW)};
        which -= windows;
        granule += granules;
    }
    return found;
}

// Of x, what a tile of the result has: WINDOWS windows.
struct Column {
    Window windows[WINDOWS];

    DEVICE void find(const int *rows, int column) {  // by the threads of a warp, each window by one
        if (threadIdx.x % 32 < WINDOWS) windows[threadIdx.x % 32] = window_of(rows, column * WINDOWS + threadIdx.x % 32);
    }
    DEVICE int has() const {  // bit STEP
        int found = 0;
#pragma unroll
        for (int i = 0; i < WINDOWS; ++i) found |= windows[i].count ? 1 << windows[i].step : 0;
        return found;
    }
    DEVICE int granules() const {
        int count = 0;
#pragma unroll
        for (int i = 0; i < WINDOWS; ++i) count += windows[i].count;
        return count;
    }
    DEVICE bool needs(int n) const { return n % WINDOW < windows[n / WINDOW].count; }  // granule n
};

struct Shared {
    uint4 turned[GROUPS][2][16][8];  // a warpgroup's results of 16 tokens, twice by turns
    unsigned long long full[MOST_STAGES], empty[MOST_STAGES];
    Token tokens[TOKENS];
    Column column, ahead;  // of the warpgroups, and of the warp that copies
    int rows[9];           // of x, of each step
};

// This block's work: its cluster's share of the tiles of the result, columns of a row of tiles first, and its own of the units.
struct Share {
    int has, planes, columns, tiles, first, jump, begin, end, stages, stage_bytes;  // `has`: bit STEP of the steps of x

    DEVICE Share(const Gemm &a, const int *rows) {
        has = 0;
#pragma unroll
        for (int step = 1; step < 9; ++step) has |= (rows[step] > 0) << step;
        planes = has ? 31 - __clz(has) : 0;
        columns = (windows_of(rows) + WINDOWS - 1) / WINDOWS;
        tiles = (a.layer.n + 16 * a.tiles - 1) / (16 * a.tiles) * columns;
        first = blockIdx.x;
        jump = gridDim.x;
        begin = a.layer.units * cluster_rank() / cluster_size();
        end = a.layer.units * (cluster_rank() + 1) / cluster_size();
        stage_bytes = (GRANULES * X_BYTES + a.tiles * PLANE * planes + 1023) / 1024 * 1024;
        stages = min(a.shared_bytes / stage_bytes, MOST_STAGES);
    }
    DEVICE static bool adds_up() { return K_GROUPS > 1 || cluster_size() > 1; }
};

// Of all threads that work on a tile, in all blocks of the cluster.
DEVICE void tile_barrier() {
    if (cluster_size() > 1) cluster_barrier();
    else barrier_of<CONSUMERS + 32>(1);
}

DEVICE void copy_all(const Gemm &a, const Share &share, Shared &block) {
    const int lane = threadIdx.x % 32, tiles = (a.layer.n + 15) / 16;
    const u32 stages = address_of(shared), full = address_of(block.full), empty = address_of(block.empty);
    Column &column = block.ahead;
    int tile = share.first, stage = 0, parity = 0, bytes = 0;  // of the planes of a tile and a unit
    const auto look = [&] {
        __syncwarp();
        column.find(block.rows, tile % share.columns);
        __syncwarp();
        bytes = PLANE * (31 - __clz(column.has()));
    };
    const auto copy_planes = [&](int unit, int to) {
        if (lane == 0) arrive_expecting(full + 8 * to, a.tiles * bytes + column.granules() * X_BYTES);
        __syncwarp();
        if (lane >= a.tiles) return;
        const int row = min(tile / share.columns * a.tiles + lane, tiles - 1);
        const char *from = a.layer.planes + ((size_t)row * a.layer.units + unit) * a.layer.tile_bytes;
        copy_bulk(stages + to * share.stage_bytes + GRANULES * X_BYTES + lane * PLANE * share.planes, from, bytes, full + 8 * to);
    };
    const auto copy_x = [&](int unit, int to) {
        if (lane >= WINDOWS || !column.windows[lane].count) return;
        const Window mine = column.windows[lane];
        const char *from = a.x + ((size_t)unit * a.granules + mine.first) * X_BYTES;
        copy_bulk(stages + to * share.stage_bytes + lane * WINDOW * X_BYTES, from, mine.count * X_BYTES, full + 8 * to);
    };
    const int ahead = min(share.stages, share.end - share.begin);
    look();
    for (int i = 0; i < ahead; ++i) copy_planes(share.begin + i, i);
    wait_for_kernel_ahead();
    for (int i = 0; i < ahead; ++i) copy_x(share.begin + i, i);
    stage = ahead == share.stages ? 0 : ahead;
    bool filled = stage == 0;  // whether a stage is to be emptied before it is filled again
    for (int unit = share.begin + ahead; tile < share.tiles;) {
        for (; unit < share.end; ++unit) {
            if (filled) wait_for_phase(empty + 8 * stage, parity);
            copy_planes(unit, stage);
            copy_x(unit, stage);
            if (++stage == share.stages) { stage = 0; parity ^= filled; filled = true; }
        }
        if (share.adds_up()) {
            tile_barrier();
            tile_barrier();
            visible_to_engines();
        }
        tile += share.jump;
        unit = share.begin;
        if (tile < share.tiles) look();
    }
}

// Where a warp stands in the stages.
struct Stages {
    u32 full, empty;
    int stages, stage, parity, held = -1;  // `held` is still read by products under way

    DEVICE Stages(const Share &share, const Shared &block, int at) : full(address_of(block.full)), empty(address_of(block.empty)) {
        stages = share.stages;
        stage = at % stages;
        parity = at / stages & 1;
    }
    DEVICE void wait() {  // what is held is let go first, if there is anything to wait for
        if (held >= 0 && !has_phase(full + 8 * stage, parity)) {
            wgmma_wait<0>();
            release();
        }
        wait_for_phase(full + 8 * stage, parity);
    }
    DEVICE void release() {
        if (held >= 0 && threadIdx.x % 32 == 0) arrive(empty + 8 * held);
        held = -1;
    }
    DEVICE void next() {
        held = stage;
        for (stage += K_GROUPS; stage >= stages; stage -= stages) parity ^= 1;
    }
};

// The units of a tile where all of x has one step; the tensor cores work on one half of a unit while the other is made.
template <int W> DEVICE void units_of_one(int (&sum)[GRANULES][4], const Tables (&tables)[2], const Share &share, const char *own, Stages stages, int count) {
    u32 made[SETS][16];
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        stages.wait();
        const int at = stages.stage * share.stage_bytes;
        each<2>([&](auto half) {
            Words<W> words;
            words.load(own + at, half);
            constexpr int SET = half % SETS;
            wgmma_wait<SETS - 1>();
            if (half == SETS - 1 && K_GROUPS == 1) stages.release();
            decode<W, W>(made[SET], words, tables);
            const u32 x = address_of(shared) + at + half * (X_BYTES / 2);
            wgmma_begin();
#pragma unroll
            for (int j = 0; j < 4; ++j) wgmma<GRANULES>(sum, made[SET] + 4 * j, matrix_at<X_BYTES>(x + 32 * j));
            wgmma_commit();
        });
        stages.next();
        if (K_GROUPS > 1) {  // the copies may need this stage before this group's next unit comes
            wgmma_wait<0>();
            stages.release();
        }
    }
    wgmma_wait<0>();
    stages.release();
}

// The same where x has several steps.
DEVICE void units_of_several(int (&sum)[GRANULES][4], const Tables (&tables)[2], const Share &share, const char *own, Stages stages, int count, const Column &column) {
    u32 made[SETS][16];
    const int has = column.has();
    int busy = -1;  // the set whose products may be under way
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        stages.wait();
        const int at = stages.stage * share.stage_bytes;
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            Words<WIDEST> words;
            words.load(own + at, half);
            const u32 x = address_of(shared) + at + half * (X_BYTES / 2);
            each_step_by_turns<WIDEST>(has, words, tables, made, busy, [&](auto step, const u32 (&from)[16]) {
#pragma unroll
                for (int w = 0; w < WINDOWS; ++w)
                    if (column.windows[w].step == step)
#pragma unroll
                        for (int j = 0; j < 4; ++j) wgmma<WINDOW>(sum + w * WINDOW, from + 4 * j, matrix_at<X_BYTES>(x + w * WINDOW * X_BYTES + 32 * j));
            });
        }
        stages.next();
        wgmma_wait<0>();
        busy = -1;
        stages.release();
    }
}

// A warpgroup's sums of 16 tokens to memory, 128 bytes a token; `row` is its first, `turn` counts the calls.
DEVICE void write(const Gemm &a, Shared &block, int pair, const int (&first)[4], const int (&second)[4], int row, int rows, const float (&scales)[2], int turn) {
    const int lane = threadIdx.x % 32, t = lane % 4, warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128;
    u32 made[4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
        const Token *tokens = block.tokens + 16 * pair + 8 * n + 2 * t;
        const Token low = tokens[0], high = tokens[1];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int *sum = (n ? second : first) + 2 * r;
            made[2 * n + r] = to_bfloat16(scaled(sum[0] - low.bias, scales[r], low.scale)) | to_bfloat16(scaled(sum[1] - high.bias, scales[r], high.scale)) << 16;
        }
    }
    uint4 (*turned)[8] = block.turned[group][turn % 2];
    store_turned(&turned[lane / 16 * 8 + lane % 8][(2 * warp + lane / 8 % 2) ^ lane % 8], made);
    barrier_of<128>(3 + group);
    const int token = threadIdx.x % 128 / 8, part = threadIdx.x % 8, to = block.tokens[16 * pair + token].row, at = row + 8 * part;
    const uint4 eight = turned[token][part ^ token % 8];
    if (to < 0 || 8 * part >= rows) return;
    u16 *out = a.out + (size_t)to * a.layer.n + at;
    if (a.layer.n % 8 == 0) { *(uint4 *)out = eight; return; }
    const u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (8 * part + i < rows) out[i] = (u16)(words[i / 2] >> 16 * (i % 2));
}

// Sums of a tile that several warpgroups have, in this block and in others of its cluster: each adds up some pairs of granules.
template <typename Use> DEVICE void add_up(const Column &column, const int (&sum)[GRANULES][4], int group, Use use) {
    int4 *own = (int4 *)shared + threadIdx.x % SHARERS;
    barrier_of<CONSUMERS>(2);  // the stages are free
    each<GRANULES>([&](auto n) {
        if (column.needs(n)) own[(group * GRANULES + n) * SHARERS] = make_int4(sum[n][0], sum[n][1], sum[n][2], sum[n][3]);
    });
    tile_barrier();
    const int parts = K_GROUPS * cluster_size();
    for (int pair = group * cluster_size() + cluster_rank(); pair < GRANULES / 2; pair += parts) {
        int total[2][4] = {};
        if (!column.needs(2 * pair) && !column.needs(2 * pair + 1)) continue;
#pragma unroll 1
        for (int rank = 0; rank < cluster_size(); ++rank)
#pragma unroll
            for (int i = 0; i < 2 * K_GROUPS; ++i) {
                const int4 part = of_block(own + (i / 2 * GRANULES + 2 * pair + i % 2) * SHARERS, rank);
                total[i % 2][0] += part.x; total[i % 2][1] += part.y; total[i % 2][2] += part.z; total[i % 2][3] += part.w;
            }
        use(pair, total[0], total[1]);
    }
    visible_to_engines();
    tile_barrier();
}

// All of a block's tiles; STEP is that of all rows of x, 0 where they have several.
template <int STEP> DEVICE void compute_all(const Gemm &a, const Share &share, Shared &block) {
    const int warp = threadIdx.x / 32 % (4 * ROW_GROUPS), group = threadIdx.x / SHARERS, g = threadIdx.x % 32 / 4;
    const int mine = min(warp, a.tiles - 1), last = (a.layer.n + 15) / 16 - 1, units = share.end - share.begin;
    const char *own = shared + GRANULES * X_BYTES + mine * PLANE * share.planes + 16 * (threadIdx.x % 32);
    const Column &column = block.column;
    int known = -1, before = 0, turn = 0;  // the column whose tokens are here; units of tiles before
    for (int tile = share.first; tile < share.tiles; tile += share.jump, before += units) {
        const int row = 16 * min(tile / share.columns * a.tiles + mine, last);
        Tables tables[2];
        tables[0].load(a.layer, row + g);
        tables[1].load(a.layer, row + g + 8);
        const float scales[2] = {scale_of(a.layer, row + g), scale_of(a.layer, row + g + 8)};
        if (known < 0) {
            wait_for_kernel_ahead();
            let_next_kernel_begin();
        }
        if (tile % share.columns != known) {
            known = tile % share.columns;
            barrier_of<CONSUMERS>(2);
            if (threadIdx.x < 32) block.column.find(block.rows, known);
            barrier_of<CONSUMERS>(2);
            for (int i = threadIdx.x; i < TOKENS; i += CONSUMERS) {
                const Window of = column.windows[i / 8 / WINDOW];
                const int place = 8 * (of.first + i / 8 % WINDOW) + i % 8, to = i / 8 % WINDOW < of.count ? a.row_of[place] : -1;
                block.tokens[i] = {to, to < 0 ? 0 : bias_of(of.step) * a.sums[place], to < 0 ? 0 : a.scales[place]};
            }
            barrier_of<CONSUMERS>(2);
        }
        int sum[GRANULES][4] = {};
        const Stages stages(share, block, before + group);
        const int count = (units - group + K_GROUPS - 1) / K_GROUPS;
        if constexpr (STEP) units_of_one<STEP>(sum, tables, share, own, stages, count);
        else units_of_several(sum, tables, share, own, stages, count, column);
        const int tiles_before = tile / share.columns * a.tiles, own_tile = warp / 4 * 4;  // of its warpgroup
        const int begin = 16 * (tiles_before + own_tile), rows = min(16 * min(a.tiles - own_tile, 4), a.layer.n - begin);
        const auto store = [&](int pair, const int (&first)[4], const int (&second)[4]) {
            write(a, block, pair, first, second, begin, rows, scales, turn++);
        };
        if (share.adds_up()) add_up(column, sum, group, store);
        else each<GRANULES / 2>([&](auto pair) {
            if (column.needs(2 * pair) || column.needs(2 * pair + 1)) store(pair, sum[2 * pair], sum[2 * pair + 1]);
        });
    }
    if (known < 0) wait_for_kernel_ahead();
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 128, 1) hopper_gemm(const Gemm a) {
    __shared__ Shared block;
    if (threadIdx.x < 9) block.rows[threadIdx.x] = 0;
    if (threadIdx.x < MOST_STAGES) {
        barrier_init(address_of(block.full + threadIdx.x), 1);
        barrier_init(address_of(block.empty + threadIdx.x), SHARERS / 32);
    }
    barriers_visible();
    __syncthreads();
    for (int first = 0; first < a.m; first += blockDim.x) {
        const int i = first + threadIdx.x, mine = i < a.m ? step_of(a.widths[i]) : 0;
#pragma unroll
        for (int step = 1; step < 9; ++step) {
            const u32 who = __ballot_sync(~0u, mine == step);
            if (who && threadIdx.x % 32 == 0) atomicAdd(&block.rows[step], __popc(who));
        }
    }
    __syncthreads();
    const Share share(a, block.rows);
    if (threadIdx.x >= CONSUMERS) {
        fewer_registers<FEW_REGISTERS>();
        if (threadIdx.x < CONSUMERS + 32 && share.first < share.tiles) copy_all(a, share, block);
    } else {
        more_registers<REGISTERS>();
#define COMPUTE(W) if (share.has == 1 << W) compute_all<W>(a, share, block);
        EACH_STEP(COMPUTE)
#undef COMPUTE
        if (share.has & share.has - 1) compute_all<0>(a, share, block);
        if (!share.has) wait_for_kernel_ahead();
    }
}
