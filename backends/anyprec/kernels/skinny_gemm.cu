// A layer times up to 16 rows of x, each at its own width; the kernel quantizes x itself, while the weights are on their way.
//
// A warp multiplies 16 rows of the layer by some of the columns; each lane copies its own words of the planes ahead into
// shared memory and reads them back itself, so that no thread waits for another. Warps that share rows add up at the end.
//
// Compiled with EACH_STEP(X), a list of X(step) in ascending order, WIDEST, the last of them, RING, the bytes of a warp's words on their
// way, and GRANULES, how many times eight rows of x there are at most.

#include "decode.cuh"

constexpr int MOST = 8 * GRANULES;  // rows of x
template <int STEP> constexpr int PART = STEP <= 4 ? STEP - 2 : STEP / 2;

// What the kernel reads and writes; launches.py has the same.
struct Skinny {
    Layer layer;
    const u16 *x;      // (m, columns) bfloat16
    const int *widths; // (m,)
    u16 *out;          // (m, n) bfloat16
    int m, columns, parts;
    int sharing;   // warps that make bytes of one row of x
    int fraction;  // 65536 / m, rounded up: divides by m what is below 256
};

struct Tokens {
    float scale[MOST], most[16];
    int sum[MOST], step[MOST];
};

constexpr int KEPT = 6;  // times eight columns that a thread reads at once

// Rows of x to bytes in the order of fragment_at, with their scales and sums. `sharing` warps share a row, `first` is a thread's place
// in it; where there are more than eight rows, a warp has all of a row and of another, and what it reads at once is all of both.
DEVICE void quantize(const Skinny &a, char *image, Tokens &tokens, int row, int first, int padded) {
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, stride = 32 * a.sharing, eights = a.columns / 8;
    uint4 kept[KEPT], more[KEPT];  // what is read first is read once
    const auto read = [&](uint4 (&to)[KEPT], int row, int i) {
#pragma unroll
        for (int k = 0; k < KEPT; ++k, i += stride) to[k] = row < a.m && i < eights ? *(const uint4 *)(a.x + (size_t)row * a.columns + 8 * i) : make_uint4(0, 0, 0, 0);
    };
    const auto largest = [&](const uint4 (&at)[KEPT], u32 pair) {
#pragma unroll
        for (int k = 0; k < KEPT; ++k) pair = larger_pair(pair, largest_of(at[k]));
        return pair;
    };
    const auto store = [&](const uint4 (&at)[KEPT], int row, int i, float times, int &sum) {
#pragma unroll
        for (int k = 0; k < KEPT; ++k, i += stride) {
            if (i >= padded) return;
            *(u32 *)(image + fragment_at(8 * i, row, a.m)) = quantized(at[k].x, at[k].y, times, sum);
            *(u32 *)(image + fragment_at(8 * i + 4, row, a.m)) = quantized(at[k].z, at[k].w, times, sum);
        }
    };
    const auto times_of = [&](float most) { return most > 0 ? 127.f / most : 0; };
    const auto tell = [&](int row, float most, int sum) {
        sum = warp_sum(sum);
        if (threadIdx.x % 32) return;
        atomicAdd(&tokens.sum[row], sum);
        if (first < 32) tokens.scale[row] = most / 127.f;
    };
    read(kept, row, first);
    if constexpr (GRANULES > 1) {
        read(more, row + warps, first);
        const float most = warp_largest(largest(kept, 0)), other = warp_largest(largest(more, 0));
        int sum = 0, others = 0;
        if (row < a.m) store(kept, row, first, times_of(most), sum);
        if (row < a.m) tell(row, most, sum);
        if (row + warps < a.m) store(more, row + warps, first, times_of(other), others);
        if (row + warps < a.m) tell(row + warps, other, others);
        return;
    }
    u32 pair = largest(kept, 0);
#pragma unroll 1
    for (int i = first + KEPT * stride; i < eights; i += KEPT * stride) {
        read(more, row, i);
        pair = largest(more, pair);
    }
    float most = warp_largest(pair);
    if (threadIdx.x % 32 == 0) tokens.most[warp] = most;
    __syncthreads();
    if (row >= a.m) return;
    for (int i = 0; i < a.sharing; ++i) most = fmaxf(most, tokens.most[row * a.sharing + i]);
    const float times = times_of(most);
    int sum = 0;
    store(kept, row, first, times, sum);
#pragma unroll 1
    for (int i = first + KEPT * stride; i < padded; i += KEPT * stride) {
        read(more, row, i);
        store(more, row, i, times, sum);
    }
    tell(row, most, sum);
}

// All of this block's rows of the layer, its tiles blockIdx.x, blockIdx.x + gridDim.x, ...; `has` names the steps of the
// rows of x, W the widest there may be; `planes` bits of each weight are read.
template <int W, bool MIXED> DEVICE void pass(const Skinny &a, Tokens &tokens, int has, int planes) {
    constexpr int STAGE = PLANE * W, STAGES = RING / STAGE;
    constexpr bool APART = MIXED && GRANULES == 1;  // each part of the weights has sums of its own, for which more rows leave no room
    static_assert(STAGES > 1);
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int together = warps / a.parts, working = together * a.parts, part = warp % a.parts, tiles = (a.layer.n + 15) / 16;
    const int begin = a.layer.units * part / a.parts, end = a.layer.units * (part + 1) / a.parts;
    const int jump = gridDim.x * together, start = warp < working ? blockIdx.x + gridDim.x * (warp / a.parts) : tiles;
    char *ring = shared + warp * RING + 16 * lane, *image = shared + working * RING;
    int *sums = (int *)(image + a.m * a.layer.units * UNIT);  // (working, m, 16)
    int next_tile = start, next_unit = begin, next_stage = 0;
    const auto copy_next = [&] {
        if (next_tile < tiles && begin < end) {
            const char *from = a.layer.planes + ((size_t)next_tile * a.layer.units + next_unit) * a.layer.tile_bytes + 16 * lane;
#pragma unroll
            for (int i = 0; i < W; ++i)
                if (!MIXED || i < planes) copy_async(ring + next_stage * STAGE + PLANE * i, from + PLANE * i);
            if (++next_unit == end) { next_unit = begin; next_tile += jump; }
        }
        copies_ordered();
        next_stage = next_stage + 1 == STAGES ? 0 : next_stage + 1;
    };
    for (int i = 0; i < STAGES - 1; ++i) copy_next();
    Tables tables[2];
    if (start < tiles) { tables[0].load(a.layer, 16 * start + g); tables[1].load(a.layer, 16 * start + g + 8); }
    const int row = warp / a.sharing, place = warp % a.sharing * 32 + lane, padded = a.layer.units * UNIT / 8;
    wait_for_kernel_ahead();
    let_next_kernel_begin();
    quantize(a, image, tokens, row, place, padded);
    __syncthreads();
    int stage = 0, asked[GRANULES];  // the steps of this lane's tokens
#pragma unroll
    for (int n = 0; n < GRANULES; ++n) asked[n] = tokens.step[min(8 * n + g, a.m - 1)];
    for (int first = blockIdx.x; first < tiles; first += jump) {  // the same for all warps of a block
        const int tile = first + gridDim.x * (warp / a.parts);
        int sum[GRANULES][2][4] = {}, part[APART ? 5 : 1][4] = {};
        if (tile < tiles && warp < working) {
            if (tile != start) { tables[0].load(a.layer, 16 * tile + g); tables[1].load(a.layer, 16 * tile + g + 8); }
            for (int unit = begin; unit < end; ++unit) {
                wait_for_copies<STAGES - 2>();
                copy_next();
                const char *at = ring + stage * STAGE, *x_at = image + (size_t)unit * 4 * a.m * 64 + t * 16;
                stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    Words<W> words;
                    words.load(at, half);
                    u32 x[GRANULES][8];
#pragma unroll
                    for (int n = 0; n < GRANULES; ++n) {
                        const char *token = x_at + min(8 * n + g, a.m - 1) * 64;
                        *(uint4 *)x[n] = *(const uint4 *)(token + 2 * half * a.m * 64);
                        *(uint4 *)(x[n] + 4) = *(const uint4 *)(token + (2 * half + 1) * a.m * 64);
                    }
                    if constexpr (!MIXED) {
                        u32 made[16];
                        decode<W, W>(made, words, tables);
#pragma unroll
                        for (int j = 0; j < 4; ++j)
#pragma unroll
                            for (int n = 0; n < GRANULES; ++n) mma(sum[n][j % 2], made + 4 * j, x[n][2 * j], x[n][2 * j + 1]);
                    } else {
                        each_part<W>(has, words, tables, [&](auto step, const u32 (&made)[16]) {
#pragma unroll
                            for (int n = 0; n < GRANULES; ++n) {
                                const bool any = APART || takes_part(asked[n], step);
#pragma unroll
                                for (int j = 0; j < 4; ++j) mma(APART ? part[PART<step>] : sum[n][j % 2], made + 4 * j, any ? x[n][2 * j] : 0, any ? x[n][2 * j + 1] : 0);
                            }
                        });
                    }
                }
            }
        }
#pragma unroll
        for (int n = 0; n < GRANULES; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int token = 8 * n + 2 * t + i % 2;
                if constexpr (APART) {
                    const int step = tokens.step[min(token, a.m - 1)];
                    each<5>([&](auto p) { sum[n][0][i] += takes_part(step, p < 3 ? p + 2 : 2 * p) ? part[p][i] : 0; });
                }
                if (token < a.m && warp < working) sums[(warp * a.m + token) * 16 + g + i / 2 * 8] = sum[n][0][i] + sum[n][1][i];
            }
        __syncthreads();
        for (int i = threadIdx.x / 16; i < together * a.m; i += blockDim.x / 16) {
            const int which = i * a.fraction >> 16, to = i - which * a.m, row = 16 * (first + gridDim.x * which) + threadIdx.x % 16;
            if (row >= a.layer.n) continue;
            int total = -bias_of(tokens.step[to]) * tokens.sum[to];
            for (int k = 0; k < a.parts; ++k) total += sums[((which * a.parts + k) * a.m + to) * 16 + threadIdx.x % 16];
            const float value = tokens.step[to] ? scaled(total, scale_of(a.layer, row), tokens.scale[to]) : 0;
            a.out[(size_t)to * a.layer.n + row] = to_bfloat16(value);
        }
        __syncthreads();
    }
    wait_for_copies<0>();
}

extern "C" __global__ void __launch_bounds__(512, 1) skinny_gemm(const Skinny a) {
    __shared__ Tokens tokens;
    int has = 0;
    for (int i = 0; i < a.m; ++i) has |= 1 << step_of(a.widths[i]);
    if (threadIdx.x < a.m) { tokens.step[threadIdx.x] = step_of(a.widths[threadIdx.x]); tokens.sum[threadIdx.x] = 0; }
    has &= ~1;
#define PASS(W) if (has == 1 << W) pass<W, false>(a, tokens, has, W);
    EACH_STEP(PASS)
#undef PASS
    if (has & has - 1) pass<WIDEST, true>(a, tokens, has, 31 - __clz(has));
    if (has) return;
    wait_for_kernel_ahead();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < a.m * a.layer.n; i += gridDim.x * blockDim.x) a.out[i] = 0;
}
