// A layer read straight from its bit planes, times many rows of x, each at its own width.
//
// A block makes 64 rows of the layer for up to PLACES rows of x of one width (blockIdx.y counts such tiles of x, width by
// width); its GROUPS warpgroups share the columns. Weights are made in the registers in which wgmma takes its first
// operand, looked up by permuting bytes in registers up to 3 bits and in shared memory above, where two lanes share a
// copy of a table; x lies in shared memory as wgmma wants its second: rows of 64 columns, 16-byte pieces swizzled.
//
// Compiled with EACH_WIDTH(X), a list of X(width) in ascending order; PLACES (16, 32, 64 or 128); GROUPS; WHOLE, whether the
// columns are a multiple of 512. Columns must be a multiple of 16.

#include "common.cuh"
#include "wgmma.cuh"

constexpr int THREADS = 128 * GROUPS, SLICE_BYTES = 128 * PLACES, SLICES = 3;

struct Tokens {
    int count[9];         // rows of x of each width
    int of[PLACES];       // those of this tile
    int width, taken;     // of this tile
};

// Finds the rows of x of this block's tile.
__device__ __forceinline__ void find_tokens(const Layer &a, Tokens &tokens) {
    if (threadIdx.x < 9) tokens.count[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a.m; i += THREADS) atomicAdd(&tokens.count[a.widths[i]], 1);
    __syncthreads();
    int width = 1, begin = blockIdx.y;
    for (; width < 9; begin -= (tokens.count[width] + PLACES - 1) / PLACES, ++width)
        if (begin < (tokens.count[width] + PLACES - 1) / PLACES) break;
    begin *= PLACES;
    if (threadIdx.x < 32) {
        int before = 0;
        for (int i = threadIdx.x; i < (a.m + 31) / 32 * 32; i += 32) {
            const bool mine = width < 9 && i < a.m && a.widths[i] == width;
            const u32 all = __ballot_sync(0xFFFFFFFF, mine);
            const int rank = before + __popc(all & ((1u << threadIdx.x) - 1)) - begin;
            if (mine && rank >= 0 && rank < PLACES) tokens.of[rank] = i;
            before += __popc(all);
        }
        if (threadIdx.x == 0) {
            tokens.width = width < 9 ? width : 0;
            tokens.taken = width < 9 ? min(PLACES, tokens.count[width] - begin) : 0;
        }
    }
    __syncthreads();
}

// Decoders: the weights of steps 2 i and 2 i + 1 of a lane's word: part[s] is step 2 i + s, as wgmma takes it.
template <int WIDTH> struct Decoder {
    static constexpr int LOWER = 1 << (WIDTH - 4), BYTES = (1 << WIDTH) * TABLE_TIMES;  // of a warp's 16 rows
    u32 own;
    // Entry (lower bits) * 16 + (upper four bits) has row g's weight in its lower half and that of row g + 8 above.
    __device__ __forceinline__ void build(const Layer &a, int row0) {
        constexpr int CHUNK = LOWER < 8 ? LOWER : 8, TASKS = 128 * LOWER / CHUNK;
        for (int task = threadIdx.x; task < 4 * TASKS; task += THREADS) {
            const int g = task % 8, upper = task / 8 % 16, lower = task % TASKS / 128 * CHUNK, warp = task / TASKS;
            const u16 *from[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) from[half] = table_of(a, row0 + 16 * warp + g + 8 * half) + a.first[WIDTH] + upper * LOWER + lower;
            u16 entry[2][CHUNK];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (CHUNK == 1) entry[half][0] = *from[half];
                else load_words<(CHUNK > 1 ? CHUNK / 2 : 1)>((u32 *)entry[half], (const u32 *)from[half]);
            }
#pragma unroll
            for (int k = 0; k < CHUNK; ++k)
                store_two(shared + warp * BYTES / 4 + 16 * ((lower + k) * 16 + upper) + 2 * g, entry[0][k] | (u32)entry[1][k] << 16);
        }
        own = threadIdx.x % 128 / 32 * BYTES + 8 * (threadIdx.x % 32 / 4) + 4 * (threadIdx.x % 2);
        __syncthreads();
    }
    __device__ __forceinline__ void decode(const u32 (&upper)[2][4], const u32 (&lower)[2][4], int i, u32 (&part)[2][4]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u32 even = WIDTH == 4 ? upper[half][i] & 0x0F0F0F0F : pick<0x0F0F0F0F>(upper[half][i], lower[half][i] << 4);
            const u32 odd = WIDTH == 4 ? upper[half][i] >> 4 & 0x0F0F0F0F : pick<0x0F0F0F0F>(upper[half][i] >> 4, lower[half][i]);
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const u32 first = shared_word(byte_times<TABLE_TIMES>(even, b, 0) + own), second = shared_word(byte_times<TABLE_TIMES>(odd, b, 0) + own);
                part[b / 2][half + 2 * (b % 2)] = __byte_perm(first, second, half ? 0x7632 : 0x5410);
            }
        }
    }
};

template <int WIDTH> struct Narrow {
    Bytes rows[2];  // g and g + 8
    __device__ __forceinline__ void build(const Layer &a, int row0) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            rows[half].split((const u32 *)(table_of(a, row0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half) + a.first[WIDTH]));
        }
    }
    __device__ __forceinline__ void decode(const u32 (&upper)[2][4], const u32 (&)[2][4], int i, u32 (&part)[2][4]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                rows[half].look_up(upper[half][i] >> (16 * s), part[s][half], part[s][half + 2]);
            }
        }
    }
};
template <> struct Decoder<1> : Narrow<1> {};
template <> struct Decoder<2> : Narrow<2> {};
template <> struct Decoder<3> : Narrow<3> {};

// x on its way from memory: of 64 columns of PLACES rows, this thread's pieces of 16 columns.
struct Piece { u32 word[8]; };
constexpr int PIECES = 4 * PLACES / 128 ? 4 * PLACES / 128 : 1;

__device__ __forceinline__ void load(Piece (&to)[PIECES], const Layer &a, const Tokens &tokens, int column) {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const int n = threadIdx.x % 128 + 128 * i, place = n / 4, at = column + 16 * (n % 4);
        if (place >= PLACES) break;
        if (at < a.columns) {
            const u32 *from = (const u32 *)(a.x + (size_t)tokens.of[min(place, tokens.taken - 1)] * a.columns + at);
            load_words<4>(to[i].word, from);
            load_words<4>(to[i].word + 4, from + 4);
        } else {
#pragma unroll
            for (int w = 0; w < 8; ++w) to[i].word[w] = 0;
        }
    }
}

// Columns 4 t and 4 t + 1 of each sixteen come to the first eight, 4 t + 2 and 4 t + 3 to the others: as lanes have weights.
__device__ __forceinline__ void store(const Piece (&from)[PIECES], u32 slice) {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const int n = threadIdx.x % 128 + 128 * i, place = n / 4, piece = n % 4 * 2;
        if (place >= PLACES) break;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            u32 *to = (u32 *)shared_at(slice + 128 * place + 16 * ((piece + half) ^ place % 8));
            *(uint4 *)to = make_uint4(from[i].word[half], from[i].word[2 + half], from[i].word[4 + half], from[i].word[6 + half]);
        }
    }
}

template <int WIDTH> __device__ __forceinline__ void load(u32 (&to)[2][WIDTH][1], const Layer &a, int row0, int step) {
    const int lane = threadIdx.x % 32, group = step / 4, size = WHOLE ? 4 : min(4, a.words / 4 - 4 * group);
    const size_t plane = (size_t)a.rows * a.words;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = min(row0 + (int)threadIdx.x % 128 / 32 * 16 + lane / 4 + 8 * half, a.rows - 1);
        const u32 *from = a.planes + (size_t)row * a.words + 16 * group + lane % 4 * size + step % 4;
#pragma unroll
        for (int p = 0; p < WIDTH; ++p, from += plane) to[half][p][0] = *from;
    }
}

template <int WIDTH> __device__ __forceinline__ void multiply(const Layer &a, const Tokens &tokens) {
    constexpr int UPPER = WIDTH < 4 ? WIDTH : 4, LOWER = WIDTH - UPPER;
    const int own = threadIdx.x / 128, row0 = 64 * blockIdx.x, steps = a.words / 4;
    const u32 slices = TABLE_BYTES + own * SLICES * SLICE_BYTES;
    u32 planes[2][WIDTH][1];
    Piece piece[PIECES];
    if (own < steps) {
        load<WIDTH>(planes, a, row0, own);
        load(piece, a, tokens, 128 * own);
    }
    Decoder<WIDTH> decoder;
    decoder.build(a, row0);
    float sums[PLACES / 2];
    if (own < steps) {
        store(piece, slices);
        load(piece, a, tokens, 128 * own + 64);
        visible_to_wgmma();
        group_barrier(own);
    }
    int slice = 0;
    u32 part[2][2][2][4];  // [half of the word][i][step][register]
    for (int step = own; step < steps; step += GROUPS) {
        u32 upper[2][4], lower[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            nibbles<0, UPPER>(planes[half], 0, upper[half]);
            if (LOWER) nibbles<WIDTH - LOWER, LOWER>(planes[half], 0, lower[half]);
        }
        const int after = step + GROUPS;
        if (after < steps) load<WIDTH>(planes, a, row0, after);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int i = 0; i < 2; ++i) decoder.decode(upper, lower, 2 * h + i, part[h][i]);
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < 4; ++i) wgmma(sums, part[h][i / 2][i % 2], slices + slice * SLICE_BYTES + 32 * i, step != own || h || i);
            wgmma_commit();
            wgmma_wait<1>();
            slice = slice == SLICES - 1 ? 0 : slice + 1;
            // What is stored now was last read three slices ago, which every warp of the group has waited for.
            if (h == 0 || after < steps) {
                store(piece, slices + slice * SLICE_BYTES);
                const int next = h ? 128 * after + 64 : 128 * after;
                if (after < steps) load(piece, a, tokens, next);
                visible_to_wgmma();
            }
            group_barrier(own);
        }
    }
    wgmma_wait<0>();
    if (own >= steps) {
#pragma unroll
        for (int i = 0; i < PLACES / 2; ++i) sums[i] = 0;
    }
    __syncthreads();
    float *parts = (float *)shared;  // (GROUPS, PLACES, 64), over tables and slices
    const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < PLACES / 2; ++i) parts[(own * PLACES + i / 4 * 8 + lane % 4 * 2 + i % 2) * 64 + row + 8 * (i / 2 % 2)] = sums[i];
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * tokens.taken; i += THREADS) {
        if (row0 + i % 64 >= a.rows) continue;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < GROUPS; ++k) sum += parts[k * PLACES * 64 + i];
        a.out[(size_t)tokens.of[i / 64] * a.rows + row0 + i % 64] = to_bfloat16(sum);
    }
}

struct Some {
    Layer layer;          // its out is (count, K) bfloat16; x and widths are not read
    int width, first_row, count;
};

// Rows of the layer at one width. blockIdx.x counts 64 rows each, blockIdx.y shares of the columns.
template <int WIDTH> __device__ __forceinline__ void write_rows(const Some &some) {
    constexpr int UPPER = WIDTH < 4 ? WIDTH : 4, LOWER = WIDTH - UPPER;
    const Layer &a = some.layer;
    const int first = 64 * blockIdx.x, row0 = some.first_row + first, lane = threadIdx.x % 32;
    Decoder<WIDTH> decoder;
    decoder.build(a, row0);
    for (int step = threadIdx.x / 128 + GROUPS * blockIdx.y; step < a.words / 4; step += GROUPS * gridDim.y) {
        u32 planes[2][WIDTH][1], upper[2][4], lower[2][4];
        load<WIDTH>(planes, a, row0, step);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            nibbles<0, UPPER>(planes[half], 0, upper[half]);
            if (LOWER) nibbles<WIDTH - LOWER, LOWER>(planes[half], 0, lower[half]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u32 part[2][4];
            decoder.decode(upper, lower, i, part);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int s = k / 2, half = k % 2, column = 128 * step + 16 * (2 * i + s) + 4 * (lane % 4);
                const int row = first + (int)threadIdx.x % 128 / 32 * 16 + lane / 4 + 8 * half;
                if (row < some.count && column < a.columns)
                    *(uint2 *)(a.out + (size_t)row * a.columns + column) = make_uint2(part[s][half], part[s][half + 2]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) dequantize(const Some some) {
#define CASE(W) if (some.width == W) write_rows<W>(some);
    EACH_WIDTH(CASE)
#undef CASE
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) many(const Layer a) {
    __shared__ Tokens tokens;
    find_tokens(a, tokens);
#define CASE(W) if (tokens.width == W) multiply<W>(a, tokens);
    EACH_WIDTH(CASE)
#undef CASE
    if (blockIdx.y) return;
    for (int i = 0; i < a.m && tokens.count[0]; ++i) {  // padding
        if (a.widths[i]) continue;
        for (int row = threadIdx.x; row < min(64, a.rows - 64 * (int)blockIdx.x); row += THREADS) a.out[(size_t)i * a.rows + 64 * blockIdx.x + row] = 0;
    }
}
