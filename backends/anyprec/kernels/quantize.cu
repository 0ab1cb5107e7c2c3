// Rows of x to bytes, sorted by step, rows of a layer to bytes, and results back in the order of x: what products other than
// skinny_gemm.cu's are made of.

#include "decode.cuh"

// What `quantize` reads and writes; launches.py has the same.
struct Quantize {
    const u16 *x;       // (m, columns) bfloat16
    const int *widths;  // (m,)
    char *to;           // (units, granules, 2048), or (m, 256 units) where granules is 0
    u16 *out;           // (m, n) bfloat16: rows of width 0 become zeros here
    float *scales;      // of each place
    int *sums, *row_of;
    int m, n, columns, units, granules;
};

constexpr int THREADS = 256, STEPS = 9, LAST = STEPS - 1;
constexpr int KEPT = 7;  // times eight columns that a thread reads once

// Rows of a smaller step come first, of width 0 last.
DEVICE int order_of(int width) { return width ? step_of(width) - 1 : LAST; }

// Where eight neighbouring columns of a token lie in a granule: half a unit's tokens of 128 bytes together, pieces swizzled.
DEVICE int swizzled_at(int column, int token) {
    return column / 128 * 1024 + token * 128 + ((column % 128 / 16) ^ token) * 16 + column % 16;
}

// Rows of one step fill whole granules.
extern "C" __global__ void __launch_bounds__(THREADS) quantize(const Quantize a) {
    __shared__ float most_of[THREADS / 32];
    __shared__ int total, before, count[STEPS];
    let_next_kernel_begin();
    const int row = blockIdx.x, width = a.widths[row], mine = order_of(width), lane = threadIdx.x % 32, eights = a.columns / 8;
    const u16 *from = a.x + (size_t)row * a.columns;
    if (threadIdx.x < STEPS) count[threadIdx.x] = 0;
    if (threadIdx.x == 0) total = before = 0;
    __syncthreads();
    unsigned long long seen = 0;  // by this thread, of each step, eight bits each
    int earlier = 0;
    for (int i = threadIdx.x; i < a.m; i += THREADS) {
        const int other = order_of(a.widths[i]);
        seen += 1ull << 8 * (other - 1);
        earlier += other == mine && i < row;
        if ((i / THREADS & 127) == 127 || i + THREADS >= a.m) {  // before eight bits are too few
#pragma unroll
            for (int step = 1; step < STEPS; ++step)
                if (seen >> 8 * (step - 1) & 255) atomicAdd(&count[step], (int)(seen >> 8 * (step - 1) & 255));
            seen = 0;
        }
    }
    if (earlier) atomicAdd(&before, earlier);
    wait_for_kernel_ahead();
    const auto eight = [&](int i) { return i < eights ? *(const uint4 *)(from + 8 * i) : make_uint4(0, 0, 0, 0); };
    uint4 kept[KEPT];
    u32 pair = 0;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) kept[k] = eight(threadIdx.x + k * THREADS);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) pair = larger_pair(pair, largest_of(kept[k]));
    for (int i = threadIdx.x + KEPT * THREADS; i < eights; i += THREADS) pair = larger_pair(pair, largest_of(eight(i)));
    float most = warp_largest(pair);
    if (lane == 0) most_of[threadIdx.x / 32] = most;
    __syncthreads();
    const int whole = a.granules ? 8 : 1;
    int at = before, end = 0;
    for (int i = 0; i < STEPS; ++i) {
        const int taken = a.granules && i == LAST ? 0 : (count[i] + whole - 1) / whole * whole;
        if (i < mine) at += taken;
        if (row == 0)
            for (int k = count[i] + threadIdx.x; k < taken; k += THREADS) a.row_of[end + k] = -1;
        end += taken;
    }
    if (row == 0)
        for (int k = end + threadIdx.x; k < 8 * a.granules; k += THREADS) a.row_of[k] = -1;
    if (a.granules && !width) {
        for (int i = threadIdx.x; i < a.n; i += THREADS) a.out[(size_t)row * a.n + i] = 0;
        return;
    }
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) most = fmaxf(most, most_of[i]);
    const float times = most > 0 ? 127.f / most : 0;
    int sum = 0;
    const auto store = [&](int i, const uint4 &v) {
        if (i >= a.units * UNIT / 8) return;
        const u32 first = quantized(v.x, v.y, times, sum), second = quantized(v.z, v.w, times, sum);
        if (a.granules) {
            const int column = 8 * i % UNIT;
            char *granule = a.to + ((size_t)(8 * i / UNIT) * a.granules + at / 8) * 2048;
            *(uint2 *)(granule + swizzled_at(column, at % 8)) = make_uint2(first, second);
        } else {
            *(uint2 *)(a.to + (size_t)at * a.units * UNIT + 8 * i) = make_uint2(first, second);
        }
    };
#pragma unroll
    for (int k = 0; k < KEPT; ++k) store(threadIdx.x + k * THREADS, kept[k]);
    for (int i = threadIdx.x + KEPT * THREADS; i < a.units * UNIT / 8; i += THREADS) store(i, eight(i));
    sum = warp_sum(sum);
    if (lane == 0) atomicAdd(&total, sum);
    __syncthreads();
    if (threadIdx.x == 0) { a.scales[at] = most / 127.f; a.sums[at] = total; a.row_of[at] = row; }
}

// What `expand` reads and writes; launches.py has the same.
struct Expand {
    Layer layer;
    char *to;  // (rows, 256 units) signed bytes
    int step, first_tile;
};

constexpr int EXPAND_WARPS = 8, EXPAND_PITCH = UNIT + 16;

template <int W> DEVICE void expand_tile(const Expand &a, char *rows) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int unit = blockIdx.x * EXPAND_WARPS + warp, tile = a.first_tile + blockIdx.y;
    if (unit >= a.layer.units) return;
    Tables tables[2];
    tables[0].load(a.layer, 16 * tile + g);
    tables[1].load(a.layer, 16 * tile + g + 8);
    const char *at = a.layer.planes + ((size_t)tile * a.layer.units + unit) * a.layer.tile_bytes + 16 * lane;
    constexpr u32 MORE = (W == 4 ? 8 : W == 6 ? 2 : 0) * 0x01010101u;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Words<W> words;
        words.load(at, half);
        u32 made[16];
        decode<W, W>(made, words, tables);
#pragma unroll
        for (int r = 0; r < 16; ++r)
            *(u32 *)(rows + (g + r % 2 * 8) * EXPAND_PITCH + 128 * half + 32 * (r / 4) + 16 * (r / 2 % 2) + 4 * t) = made[r] + MORE ^ 0x80808080;
    }
    __syncwarp();
    for (int i = lane; i < UNIT; i += 32)
        *(uint4 *)(a.to + ((size_t)blockIdx.y * 16 + i / 16) * a.layer.units * UNIT + unit * UNIT + i % 16 * 16) = *(const uint4 *)(rows + i / 16 * EXPAND_PITCH + i % 16 * 16);
}

extern "C" __global__ void __launch_bounds__(32 * EXPAND_WARPS) expand(const Expand a) {
    char *rows = shared + threadIdx.x / 32 * 16 * EXPAND_PITCH;
#define EXPAND(W) if (a.step == W) expand_tile<W>(a, rows);
    EACH_STEP(EXPAND)
#undef EXPAND
}

// What `scatter` reads and writes; launches.py has the same.
struct Scatter {
    const uint4 *from;  // (places, eights) eight bfloat16 each
    uint4 *to;          // rows of x, `pitch` eights apart
    const int *row_of;  // of each place
    int eights, pitch;
};

constexpr int SCATTERED = 4;  // times eight columns that a thread has

extern "C" __global__ void __launch_bounds__(THREADS) scatter(const Scatter a) {
    const uint4 *from = a.from + (size_t)blockIdx.y * a.eights;
    uint4 *to = a.to + (size_t)a.row_of[blockIdx.y] * a.pitch;
    const int first = blockIdx.x * SCATTERED * THREADS + threadIdx.x;
    uint4 taken[SCATTERED];
#pragma unroll
    for (int k = 0; k < SCATTERED; ++k)
        if (first + k * THREADS < a.eights) taken[k] = from[first + k * THREADS];
#pragma unroll
    for (int k = 0; k < SCATTERED; ++k)
        if (first + k * THREADS < a.eights) to[first + k * THREADS] = taken[k];
}
