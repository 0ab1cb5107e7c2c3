// A layer times up to 8 rows of x, each at its own width; the kernel quantizes x itself, while the weights are on their way.
//
// A warp multiplies 16 rows of the layer by some of the columns; each lane copies its own words of the planes ahead into
// shared memory and reads them back itself, so that no thread waits for another. Warps that share rows add up at the end.
//
// Compiled with EACH_STEP(X), a list of X(step) in ascending order, WIDEST, the last of them, and RING, the bytes of a warp's words on their way.

#include "decode.cuh"

constexpr int MOST = 8;  // rows of x
template <int STEP> constexpr int PART = STEP <= 4 ? STEP - 2 : STEP / 2;

// What the kernel reads and writes; launches.py has the same.
struct Skinny {
    Layer layer;
    const u16 *x;      // (m, columns) bfloat16
    const int *widths; // (m,)
    u16 *out;          // (m, n) bfloat16
    int m, columns, parts;
};

struct Tokens {
    float scale[MOST], most[16];
    int sum[MOST], step[MOST];
};

constexpr int KEPT = 4;  // times eight columns that a thread reads once

// Rows of x to bytes in the order of fragment_at, with their scales and sums; warps share the rows.
DEVICE void quantize(const Skinny &a, char *image, Tokens &tokens) {
    const int warp = threadIdx.x / 32, each_row = blockDim.x / 32 / a.m, row = warp / each_row, active = row < a.m;
    const int first = warp % each_row * 32 + threadIdx.x % 32, stride = 32 * each_row, eights = a.columns / 8;
    const u16 *from = a.x + (size_t)row * a.columns;
    const auto eight = [&](int i) { return active && i < eights ? *(const uint4 *)(from + 8 * i) : make_uint4(0, 0, 0, 0); };
    uint4 kept[KEPT];
    float most = 0;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) kept[k] = eight(first + k * stride);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) most = largest_of(kept[k], most);
    for (int i = first + KEPT * stride; i < eights; i += stride) most = largest_of(eight(i), most);
    most = warp_largest(most);
    if (threadIdx.x % 32 == 0) tokens.most[warp] = most;
    __syncthreads();
    if (!active) return;
    for (int i = 0; i < each_row; ++i) most = fmaxf(most, tokens.most[row * each_row + i]);
    const float times = most > 0 ? 127.f / most : 0;
    int sum = 0;
    const auto store = [&](int i, const uint4 &v) {
        if (i >= a.layer.units * UNIT / 8) return;
        *(u32 *)(image + fragment_at(8 * i, row, a.m)) = quantized(v.x, v.y, times, sum);
        *(u32 *)(image + fragment_at(8 * i + 4, row, a.m)) = quantized(v.z, v.w, times, sum);
    };
#pragma unroll
    for (int k = 0; k < KEPT; ++k) store(first + k * stride, kept[k]);
    for (int i = first + KEPT * stride; i < a.layer.units * UNIT / 8; i += stride) store(i, eight(i));
    sum = warp_sum(sum);
    if (threadIdx.x % 32) return;
    atomicAdd(&tokens.sum[row], sum);
    if (warp % each_row == 0) tokens.scale[row] = most / 127.f;
}

// All of this block's rows of the layer, its tiles blockIdx.x, blockIdx.x + gridDim.x, ...; `has` names the steps of the
// rows of x, W the widest there may be; `planes` bits of each weight are read.
template <int W, bool MIXED> DEVICE void pass(const Skinny &a, Tokens &tokens, int has, int planes) {
    constexpr int STAGE = PLANE * W, STAGES = RING / STAGE;
    static_assert(STAGES > 1);
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int together = warps / a.parts, part = warp % a.parts, tiles = (a.layer.n + 15) / 16;
    const int begin = a.layer.units * part / a.parts, end = a.layer.units * (part + 1) / a.parts;
    const int jump = gridDim.x * together, start = warp < together * a.parts ? blockIdx.x + gridDim.x * (warp / a.parts) : tiles;
    char *ring = shared + warp * RING + 16 * lane, *image = shared + warps * RING;
    int *sums = (int *)(image + a.m * a.layer.units * UNIT);  // (warps, m, 16)
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
    wait_for_kernel_ahead();
    let_next_kernel_begin();
    quantize(a, image, tokens);
    __syncthreads();
    const int token = min(g, a.m - 1);
    int stage = 0;
    for (int first = blockIdx.x; first < tiles; first += jump) {  // the same for all warps of a block
        const int tile = first + gridDim.x * (warp / a.parts);
        int sum[2][4] = {}, part[5][4] = {};  // where widths are mixed, of each part of the weights apart
        if (tile < tiles && warp < together * a.parts) {
            if (tile != start) { tables[0].load(a.layer, 16 * tile + g); tables[1].load(a.layer, 16 * tile + g + 8); }
            for (int unit = begin; unit < end; ++unit) {
                wait_for_copies<STAGES - 2>();
                copy_next();
                const char *at = ring + stage * STAGE, *x_at = image + ((size_t)unit * 4 * a.m + token) * 64 + t * 16;
                stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    Words<W> words;
                    words.load(at, half);
                    u32 x[8];
                    *(uint4 *)x = *(const uint4 *)(x_at + 2 * half * a.m * 64);
                    *(uint4 *)(x + 4) = *(const uint4 *)(x_at + (2 * half + 1) * a.m * 64);
                    if constexpr (!MIXED) {
                        u32 made[16];
                        decode<W, W>(made, words, tables);
#pragma unroll
                        for (int j = 0; j < 4; ++j) mma(sum[j % 2], made + 4 * j, x[2 * j], x[2 * j + 1]);
                    } else {
                        each_part<W>(has, words, tables, [&](auto step, const u32 (&made)[16]) {
#pragma unroll
                            for (int j = 0; j < 4; ++j) mma(part[PART<step>], made + 4 * j, x[2 * j], x[2 * j + 1]);
                        });
                    }
                }
            }
        }
        if (MIXED) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int step = tokens.step[min(2 * t + i % 2, a.m - 1)];
                each<5>([&](auto p) { sum[0][i] += takes_part(step, p < 3 ? p + 2 : 2 * p) ? part[p][i] : 0; });
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (2 * t + i % 2 < a.m) sums[(warp * a.m + 2 * t + i % 2) * 16 + g + i / 2 * 8] = sum[0][i] + sum[1][i];
        __syncthreads();
        for (int i = threadIdx.x; i < together * a.m * 16; i += blockDim.x) {
            const int which = i / (16 * a.m), row = 16 * (first + gridDim.x * which) + i % 16, to = i / 16 % a.m;
            if (row >= a.layer.n) continue;
            int total = -bias_of(tokens.step[to]) * tokens.sum[to];
            for (int k = 0; k < a.parts; ++k) total += sums[((which * a.parts + k) * a.m + to) * 16 + i % 16];
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
