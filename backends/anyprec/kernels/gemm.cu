// A layer times any number of rows of x, which quantize.cu has sorted by step and made bytes, each at its own width.
//
// A block's warps have 16 rows of the layer each and up to GRANULES times eight rows of x, and take 256 columns at a time; a
// weight is made once for all of them. The blocks of a cluster, where there is one, share the columns and add up at the end.
//
// Compiled with EACH_STEP(X) and WIDEST as skinny_gemm.cu, GRANULES, THREADS, the most a block has, DEPTH, how many units are on
// their way, and WGMMA: whether Hopper's instruction multiplies, which four warps share: then each step present has a place of its own
// among a block's granules, WINDOW of them.

#include "decode.cuh"
#if WGMMA
#include "hopper.cuh"
#endif

constexpr int GROUP = GRANULES < 2 ? GRANULES : 2;  // granules whose products a warp has under way at once

#define ONE(W) + 1
#define BELOW(W) + (W < STEP)
constexpr int STEPS = 0 EACH_STEP(ONE);
template <int STEP> constexpr int INDEX = 0 EACH_STEP(BELOW);
#undef ONE
#undef BELOW
constexpr bool BY_TURNS = GRANULES <= 8;  // more leave no registers to make a step in while another is multiplied
constexpr int WINDOW = !WGMMA ? 0 : GRANULES / STEPS >= 4 ? 4 : GRANULES / STEPS >= 2 ? 2 : GRANULES / STEPS;

// Which of x a block has, and what its end needs.
struct Block {
    Token tokens[8 * GRANULES];
    int source[GRANULES], step[GRANULES];  // the granule of x and its step, or -1 and 0
    int rows[9];                           // of x, of each step
};

DEVICE int granules_of(const Block &block, int step) { return (block.rows[step] + 7) / 8; }

DEVICE int granules_below(const Block &block, int step) {
    int count = 0;
#pragma unroll
    for (int i = 1; i < 9; ++i) count += i < step ? granules_of(block, i) : 0;
    return count;
}

DEVICE int step_at(const Block &block, int granule) {  // 0 beyond the last
    int found = 0;
#pragma unroll
    for (int step = 8; step > 0; --step)
        if (granule < granules_below(block, step + 1)) found = step;
    return found;
}

template <typename F> DEVICE void each_listed(F f) {  // f of each step, as a number that the compiler knows
#define LISTED(W) f(Number<W>());
    EACH_STEP(LISTED)
#undef LISTED
}

// Half a unit's registers of a step, times the granules of that step; x is the unit's stage.
template <int STEP, bool MIXED>
DEVICE void multiply(int (&sum)[GRANULES][4], const u32 (&made)[16], const char *x, int half, const int (&step_of_granule)[GRANULES], int used) {
    each<(GRANULES + GROUP - 1) / GROUP>([&](auto group) {
        constexpr int N = group * GROUP;
        bool any = !MIXED && (N == 0 || N < used);
        if (MIXED)
#pragma unroll
            for (int k = 0; k < GROUP; ++k) any |= step_of_granule[N + k] == STEP;
        if (!any) return;
#pragma unroll
        for (int q = 0; q < 2; ++q) {
            u32 b[GROUP][4];
#pragma unroll
            for (int k = 0; k < GROUP; ++k) {
                load_tokens(b[k], x + (half * GRANULES + N + k) * (X_BYTES / 2), q);
                if (MIXED && step_of_granule[N + k] != STEP) b[k][0] = b[k][1] = b[k][2] = b[k][3] = 0;
            }
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int k = 0; k < GROUP; ++k) mma(sum[N + k], made + 4 * (2 * q + j), b[k][2 * j], b[k][2 * j + 1]);
        }
    });
}

// All steps that `has` names, W the widest there may be; `planes` bits of each weight are read.
template <int W, bool MIXED> DEVICE void product(const Gemm &a, int has, int planes, Block &block) {
    constexpr int WORDS = PLANE * W, LATER = DEPTH - 1;
    const int warps = blockDim.x / 32, rows = 16 * warps, pitch = rows + 4, stage_bytes = GRANULES * X_BYTES + warps * WORDS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tiles = (a.layer.n + 15) / 16;
    constexpr bool WINDOWED = MIXED && WINDOW > 0;
    const int column = a.columns_first ? blockIdx.x : blockIdx.y, group = a.columns_first ? blockIdx.y : blockIdx.x;
    if constexpr (WINDOWED) {  // a column of blocks that has no tokens ends here
        has = 0;
        each_listed([&](auto step) { has |= (column * WINDOW < granules_of(block, step)) << step; });
        if (!has) return;
        planes = 31 - __clz(has);
    } else if (column * GRANULES >= granules_below(block, 9)) {
        return;
    }
    const int begin = a.layer.units * cluster_rank() / cluster_size(), end = a.layer.units * (cluster_rank() + 1) / cluster_size();
    const int tile = min(group * warps + warp, tiles - 1);
    const char *from = a.layer.planes + (size_t)tile * a.layer.units * a.layer.tile_bytes + 16 * lane;
    Tables tables[2];
    tables[0].load(a.layer, 16 * tile + g);
    tables[1].load(a.layer, 16 * tile + g + 8);
    char *own = shared + GRANULES * X_BYTES + warp * WORDS + 16 * lane;
    const auto copy_words = [&](int unit, int stage) {
        if (unit < end)
#pragma unroll
            for (int k = 0; k < W; ++k)
                if (!MIXED || k < planes) copy_async(own + stage * stage_bytes + PLANE * k, from + (size_t)unit * a.layer.tile_bytes + PLANE * k);
    };
    if (column == 0)  // later columns of blocks may have no tokens
        for (int i = 0; i < LATER; ++i) copy_words(begin + i, i);
    if constexpr (WINDOWED) {
        each_listed([&](auto step) {
            const int within = column * WINDOW + threadIdx.x, to = INDEX<step> * WINDOW + threadIdx.x;
            if (threadIdx.x >= WINDOW) return;
            const bool any = within < granules_of(block, step);
            block.source[to] = any ? granules_below(block, step) + within : -1;
            block.step[to] = any ? step : 0;
        });
        if (threadIdx.x >= STEPS * WINDOW && threadIdx.x < GRANULES) { block.source[threadIdx.x] = -1; block.step[threadIdx.x] = 0; }
    } else if (threadIdx.x < GRANULES) {
        const int granule = column * GRANULES + threadIdx.x, step = step_at(block, granule);
        block.source[threadIdx.x] = step ? granule : -1;
        block.step[threadIdx.x] = step;
    }
    __syncthreads();
    int step_of_granule[GRANULES], used = 0;  // 0 for those that nobody needs; all up to the last needed one
#pragma unroll
    for (int n = 0; n < GRANULES; ++n) {
        step_of_granule[n] = block.step[n];
        if (step_of_granule[n]) used = n + 1;
    }
    wait_for_kernel_ahead();
    let_next_kernel_begin();
    const auto copy_x = [&](int unit, int stage) {
        const char *x = a.x + (size_t)unit * a.granules * X_BYTES;
        char *to = shared + stage * stage_bytes;
        if (unit < end)
            for (int i = 16 * threadIdx.x; i < used * X_BYTES; i += 16 * blockDim.x) {
                const int n = i / X_BYTES, half = i / (X_BYTES / 2) % 2;  // the tokens of half a unit together, as wgmma takes them
                if (block.source[n] >= 0) copy_async(to + (half * GRANULES + n) * (X_BYTES / 2) + i % (X_BYTES / 2), x + block.source[n] * X_BYTES + i % X_BYTES);
            }
        copies_ordered();
    };
    if (column)
        for (int i = 0; i < LATER; ++i) copy_words(begin + i, i);
    for (int i = 0; i < LATER; ++i) copy_x(begin + i, i);
    for (int i = threadIdx.x; i < 8 * GRANULES; i += blockDim.x) {  // read at the end
        const int granule = block.source[i / 8], place = 8 * max(granule, 0) + i % 8;
        const int row = a.row_of[place], sum = a.sums[place];
        const float scale = a.scales[place];
        const bool any = granule >= 0 && row >= 0;
        block.tokens[i] = {any ? row : -1, any ? bias_of(block.step[i / 8]) * sum : 0, any ? scale : 0};
    }
    int sum[GRANULES][4] = {};
    int stage = 0, ahead = LATER;
#if WGMMA
    u32 sets[2][16];
    int busy = -1;  // the set whose products may be under way
#endif
    for (int unit = begin; unit < end; ++unit) {
        wait_for_copies<LATER - 1>();
#if WGMMA
        visible_to_engines();
#endif
        __syncthreads();
        copy_words(unit + LATER, ahead);
        copy_x(unit + LATER, ahead);
        const char *at = own + stage * stage_bytes, *x = shared + stage * stage_bytes;
        stage = stage == LATER ? 0 : stage + 1;
        ahead = ahead == LATER ? 0 : ahead + 1;
#if WGMMA
        if constexpr (!MIXED) {
            u32 made[2][16];
#pragma unroll
            for (int half = 0; half < 2; ++half) {  // the tensor cores work on one half while the other is made
                Words<W> words;
                words.load(at, half);
                decode<W, W>(made[half], words, tables);
                wgmma_begin();
#pragma unroll
                for (int j = 0; j < 4; ++j) wgmma<GRANULES>(sum, made[half] + 4 * j, matrix_at<X_BYTES / 2>(address_of(x) + half * GRANULES * (X_BYTES / 2) + 32 * j));
                wgmma_commit();
            }
            wgmma_wait<0>();
            continue;
        }
#endif
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            Words<W> words;
            words.load(at, half);
            if constexpr (!MIXED) {
                u32 made[16];
                decode<W, W>(made, words, tables);
                multiply<W, MIXED>(sum, made, x, half, step_of_granule, used);
#if WGMMA
            } else if constexpr (WINDOWED) {
                const auto products = [&](auto step, const u32 (&made)[16]) {
                    const u32 tokens = address_of(x) + (half * GRANULES + INDEX<step> * WINDOW) * (X_BYTES / 2);
#pragma unroll
                    for (int j = 0; j < 4; ++j) wgmma<WINDOW>(sum + INDEX<step> * WINDOW, made + 4 * j, matrix_at<X_BYTES / 2>(tokens + 32 * j));
                };
                if constexpr (BY_TURNS) each_step_by_turns<W>(has, words, tables, sets, busy, products);
                else each_step<W>(has, words, tables, [&](auto step, const u32 (&made)[16]) {
                    wgmma_begin();
                    products(step, made);
                    wgmma_commit();
                    wgmma_wait<0>();
                });
#endif
            } else {
                each_step<W>(has, words, tables, [&](auto step, const u32 (&made)[16]) { multiply<step, MIXED>(sum, made, x, half, step_of_granule, used); });
            }
        }
#if WGMMA
        if constexpr (WINDOWED && BY_TURNS) {  // what was read of x may be written again
            wgmma_wait<0>();
            busy = -1;
        }
#endif
    }
    wait_for_copies<0>();
    __syncthreads();
    int *parts = (int *)shared;  // (tokens, pitch)
#pragma unroll
    for (int n = 0; n < GRANULES; ++n)
#pragma unroll
        for (int k = 0; k < 4; ++k) parts[(8 * n + 2 * t + k % 2) * pitch + 16 * warp + g + k / 2 * 8] = sum[n][k];
    cluster_barrier();
    const int row = group * rows + 2 * (threadIdx.x % (rows / 2)), together = 4 * cluster_size();  // 4 threads have a pair of rows
    const float first_scale = row < a.layer.n ? scale_of(a.layer, row) : 0, second_scale = row + 1 < a.layer.n ? scale_of(a.layer, row + 1) : 0;
    for (int i = 4 * cluster_rank() + threadIdx.x / (rows / 2); i < 8 * used; i += together) {
        const Token token = block.tokens[i];
        int2 total = make_int2(-token.bias, -token.bias);
        for (int rank = 0; rank < cluster_size(); ++rank) {
            const int2 one = of_block(parts + i * pitch + 2 * (threadIdx.x % (rows / 2)), rank);
            total.x += one.x;
            total.y += one.y;
        }
        if (token.row < 0 || row >= a.layer.n) continue;
        u16 *out = a.out + (size_t)token.row * a.layer.n + row;
        const u32 first = to_bfloat16(scaled(total.x, first_scale, token.scale)), second = to_bfloat16(scaled(total.y, second_scale, token.scale));
        if (a.layer.n % 2 == 0) {
            *(u32 *)out = first | second << 16;
        } else {
            out[0] = first;
            if (row + 1 < a.layer.n) out[1] = second;
        }
    }
    if (cluster_size() > 1) cluster_barrier();  // others may still read this block's sums
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) gemm(const Gemm a) {
    __shared__ Block block;
    if (threadIdx.x < 9) block.rows[threadIdx.x] = 0;
    __syncthreads();
    for (int first = 0; first < a.m; first += blockDim.x) {
        const int i = first + threadIdx.x, mine = i < a.m ? step_of(a.widths[i]) : 0;
        each_listed([&](auto step) {
            const u32 who = __ballot_sync(~0u, mine == step);
            if (who && threadIdx.x % 32 == 0) atomicAdd(&block.rows[step], __popc(who));
        });
    }
    __syncthreads();
    int has = 0;
    each_listed([&](auto step) { has |= (block.rows[step] > 0) << step; });
#define PRODUCT(W) if (has == 1 << W) product<W, false>(a, has, W, block);
    EACH_STEP(PRODUCT)
#undef PRODUCT
    if (has & has - 1) product<WIDEST, true>(a, has, 31 - __clz(has), block);
    if (!has) wait_for_kernel_ahead();
}
