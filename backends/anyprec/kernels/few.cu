// A layer read straight from its bit planes, times a few rows of x, each at its own width.
//
// A block makes 16 rows of the layer at a time, and its warps share the columns; while it works on some words of the planes,
// the next ones, of its next rows too, are on their way. Weights are made in the registers in which the tensor
// cores take them (mma.m16n8k16, A): lane 4 g + t holds rows g and g + 8 of columns 4 t ... 4 t + 3 of each sixteen, which
// is how layout.py lays the bits. Widths up to 3 are looked up by permuting bytes in registers, wider ones in shared
// memory: single weights above 4 bits, where every lane has a copy of its rows' tables in a bank of its own, and pairs of
// weights at 4 bits, where two lanes share one.
//
// Compiled with EACH_WIDTH(X), a list of X(width) in ascending order; TILES, how many times 8 rows of x of one width are
// multiplied in one pass over the planes; NARROW_SPAN and WIDE_SPAN, how many words of each
// plane a lane loads at once (1, 2 or 4) for widths up to 4 and above; WHOLE, whether the columns are a multiple of 512.

#include "common.cuh"

constexpr int MOST = 64;  // rows of x; THREADS must be as many at least
constexpr int PARTS_BYTES = 16 * THREADS * TILES;

struct Tokens {
    int of[MOST];         // the rows of x, by width
    int begin[10];        // where those of a width begin
};

// Rows of x sorted by width; those of width 0 come last and are none.
__device__ void sort_tokens(const Layer &a, Tokens &tokens) {
    const int row = threadIdx.x, mine = row < a.m ? a.widths[row] : 0;
    if (a.m == 1) {  // the most frequent case does without loops
        const int width = a.widths[0];
        if (row < 10) tokens.begin[row] = width && width < row;
        tokens.of[0] = 0;
        __syncthreads();
        return;
    }
    if (row < 10) {
        int before = 0;
        for (int i = 0; i < a.m; ++i) before += a.widths[i] && a.widths[i] < row;
        tokens.begin[row] = before;
    }
    __syncthreads();
    if (mine) {
        int before = 0;
        for (int i = 0; i < row; ++i) before += a.widths[i] == mine;
        tokens.of[tokens.begin[mine] + before] = row;
    }
    __syncthreads();
}

// How the words of the planes come: each lane copies its own into shared memory, one step of its warp ahead, and reads them
// back itself, so that no thread waits for another and no register for memory.
template <int WIDTH> constexpr int SPAN = WIDTH > 4 ? WIDE_SPAN : NARROW_SPAN;

template <int WIDTH> struct Feed {
    int tile, step, steps, tiles;
    u32 at, place;        // in shared memory: this lane's words, and the stage to fill next

    __device__ __forceinline__ Feed(const Layer &a, u32 where) : tile(blockIdx.x), step(threadIdx.x / 32), place(0) {
        steps = (a.words / 4 + SPAN<WIDTH> - 1) / SPAN<WIDTH>;
        tiles = step < steps ? (a.rows + 15) / 16 : 0;
        at = where + threadIdx.x / 32 * 2 * STAGE_BYTES + threadIdx.x % 32 * 4 * SPAN<WIDTH>;
        order(a);
    }
    // Starts the copies of the next step.
    __device__ __forceinline__ void order(const Layer &a) {
        if (tile < tiles) {
            const int t = threadIdx.x % 4, g = threadIdx.x % 32 / 4, first = step * SPAN<WIDTH>;
            const int group = first / 4, size = WHOLE ? 4 : min(4, a.words / 4 - 4 * group);
            const size_t plane = (size_t)a.rows * a.words;
            u32 to = at + place;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = min(16 * tile + g + 8 * half, a.rows - 1);
                const u32 *from = a.planes + (size_t)row * a.words + 16 * group + t * size + first % 4;
#pragma unroll
                for (int p = 0; p < WIDTH; ++p, from += plane, to += 128 * SPAN<WIDTH>) {
                    if (size == 4) {
                        copy_async<4 * SPAN<WIDTH>>(to, from);
                    } else {
                        for (int b = 0; b < SPAN<WIDTH>; ++b) if (first % 4 + b < size) copy_async<4>(to + 4 * b, from + b);
                    }
                }
            }
            step += THREADS / 32;
            if (step >= steps) { step = threadIdx.x / 32; tile += gridDim.x; }
        }
        copies_ordered();
        place = STAGE_BYTES - place;
    }
};

// Decoders: the eight weights of each row in steps 2 i and 2 i + 1 of a lane's word, as tensor-core registers:
// part[half][2 s + q] is pair q of step 2 i + s, of row g or g + 8.
// Tables come the same way, one tile ahead, into `raw`, this warp's part of them.
template <int WIDTH> struct Decoder {
    static constexpr int LOWER = 1 << (WIDTH - 4), CHUNK = LOWER < 8 ? LOWER : 8, TASKS = 128 * LOWER / CHUNK;
    static constexpr int EACH = (TASKS + THREADS - 1) / THREADS;
    __device__ __forceinline__ void order(const Layer &a, int tile, u32 raw) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int task = threadIdx.x + i * THREADS, place = task / 8 % 16 * LOWER + task / 128 * CHUNK;
            if (task >= TASKS) break;
#pragma unroll
            for (int half = 0; half < 2; ++half)
                copy_async<2 * CHUNK>(raw + 64 * CHUNK * (2 * i + half) + 2 * CHUNK * (threadIdx.x % 32),
                                      (const u32 *)(table_of(a, 16 * tile + task % 8 + 8 * half) + a.first[WIDTH] + place));
        }
    }
    // Entry (lower bits) * 16 + (upper four bits) has row g's weight in its lower half and that of row g + 8 above.
    __device__ __forceinline__ void build(u32 raw) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int task = threadIdx.x + i * THREADS, entry = task / 8 % 16 + 16 * (task / 128 * CHUNK);
            if (task >= TASKS) break;
            u32 word[2][CHUNK / 2];
#pragma unroll
            for (int half = 0; half < 2; ++half) load_words<CHUNK / 2>(word[half], shared_at(raw + 64 * CHUNK * (2 * i + half) + 2 * CHUNK * (threadIdx.x % 32)));
#pragma unroll
            for (int k = 0; k < CHUNK; ++k) {
                const u32 both = __byte_perm(word[0][k / 2], word[1][k / 2], k % 2 ? 0x7632 : 0x5410);
                store_four(shared + 32 * (entry + 16 * k) + 4 * (task % 8), both);
            }
        }
    }
    __device__ __forceinline__ void decode(const u32 (&upper)[2][4], const u32 (&lower)[2][4], int i, u32 (&part)[2][4]) const {
        const u32 own = 4 * (threadIdx.x % 32);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u32 even = pick<0x0F0F0F0F>(upper[half][i], lower[half][i] << 4);
            const u32 odd = pick<0x0F0F0F0F>(upper[half][i] >> 4, lower[half][i]);
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const u32 first = shared_word(byte_times<128>(even, b, own));
                const u32 second = shared_word(byte_times<128>(odd, b, own));
                part[half][b] = __byte_perm(first, second, half ? 0x7632 : 0x5410);
            }
        }
    }
};

// Every warp takes all tables of a narrow width: BYTES of each row, 16 for up to eight entries.
template <int BYTES> __device__ __forceinline__ void order_rows(const Layer &a, int tile, u32 raw, int first) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
    if (lane < BYTES) copy_async<16>(raw + 16 * lane, (const u32 *)(table_of(a, 16 * tile + lane % 16) + first + lane / 16 * 8));
}

template <int WIDTH> struct Narrow {
    Bytes rows[2];  // g and g + 8
    __device__ __forceinline__ void order(const Layer &a, int tile, u32 raw) { order_rows<16>(a, tile, raw, a.first[WIDTH]); }
    __device__ __forceinline__ void build(u32 raw) {
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            rows[half].split(shared_at(raw + 16 * (threadIdx.x % 32 / 4 + 8 * half)));
        }
    }
    __device__ __forceinline__ void decode(const u32 (&upper)[2][4], const u32 (&)[2][4], int i, u32 (&part)[2][4]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                rows[half].look_up(upper[half][i] >> (16 * s), part[half][2 * s], part[half][2 * s + 1]);
            }
        }
    }
};
template <> struct Decoder<1> : Narrow<1> {};
template <> struct Decoder<2> : Narrow<2> {};
template <> struct Decoder<3> : Narrow<3> {};

template <> struct Decoder<4> {
    __device__ __forceinline__ void order(const Layer &a, int tile, u32 raw) { order_rows<32>(a, tile, raw, a.first[4]); }
    // Pairs of the entries q, q + 4, q + 8, q + 12 of rows g and g + 8 with those that are this warp's.
    __device__ __forceinline__ void build(u32 raw) {
        const int g = threadIdx.x % 8, q = threadIdx.x % 32 / 8;
        const auto entry = [&](int half, int i) { return (u32)*((const u16 *)shared_at(raw + 16 * (g + 8 * half) + 256 * (i / 8)) + i % 8); };
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            u32 first[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) first[i] = entry(half, q + 4 * i);
            for (int upper = threadIdx.x / 32; upper < 16; upper += THREADS / 32) {
                const u32 second = entry(half, upper) << 16;
#pragma unroll
                for (int i = 0; i < 4; ++i) store_two(shared + 4096 * half + 16 * (16 * upper + q + 4 * i) + 2 * g, first[i] | second);
            }
        }
    }
    __device__ __forceinline__ void decode(const u32 (&upper)[2][4], const u32 (&)[2][4], int i, u32 (&part)[2][4]) const {
        const u32 own = 8 * (threadIdx.x % 32 / 4) + 4 * (threadIdx.x % 2);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int b = 0; b < 4; ++b) part[half][b] = shared_word(byte_times<64>(upper[half][i], b, own) + 16384 * half);
        }
    }
};

template <int WIDTH> struct Loaded { u32 word[2][WIDTH][SPAN<WIDTH>]; };  // of rows g and g + 8

template <int WIDTH> __device__ __forceinline__ void take(Loaded<WIDTH> &to, u32 from) {
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; ++i)
        load_words<SPAN<WIDTH>>(to.word[i / WIDTH][i % WIDTH], (const u32 *)((const char *)shared + from + 128 * SPAN<WIDTH> * i));
}

// The rows of x for the products with one word: for each step of 16 columns what a tensor core takes.
struct Columns { u32 first[TILES][8], second[TILES][8]; };

__device__ __forceinline__ void load(Columns &to, const Layer &a, const u16 *const (&x)[TILES], int column) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int s = 0; s < 8; ++s) {
            if (!WHOLE) to.first[tile][s] = to.second[tile][s] = 0;
            if (WHOLE || column + 16 * s + 4 * (int)(threadIdx.x % 4) < a.columns)
                load_pair(to.first[tile][s], to.second[tile][s], x[tile] + column + 16 * s);
        }
    }
}

// Adds the products of 16 rows of the layer with up to 8 TILES rows of x, over 128 columns.
template <int WIDTH>
__device__ __forceinline__ void multiply(const Decoder<WIDTH> &decoder, const Loaded<WIDTH> &planes, int b, const Columns &x, float (&sums)[TILES][2][4]) {
    constexpr int UPPER = WIDTH < 4 ? WIDTH : 4, LOWER = WIDTH - UPPER;
    u32 upper[2][4], lower[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        nibbles<0, UPPER>(planes.word[half], b, upper[half]);
        if (LOWER) nibbles<WIDTH - LOWER, LOWER>(planes.word[half], b, lower[half]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        u32 part[2][4];
        decoder.decode(upper, lower, i, part);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
                mma(sums[tile][s], part[0][2 * s], part[1][2 * s], part[0][2 * s + 1], part[1][2 * s + 1],
                    x.first[tile][2 * i + s], x.second[tile][2 * i + s]);
        }
    }
}

// Leaves a warp's sums where all warps' are added.
__device__ __forceinline__ void leave(const float (&sums)[TILES][2][4], float *parts) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) parts[((warp * TILES + tile) * 8 + 2 * t + i % 2) * 16 + g + 8 * (i / 2)] = sums[tile][0][i] + sums[tile][1][i];
    }
}

__device__ __forceinline__ void add(const Layer &a, const int *of, int count, int tile, const float *parts) {
    for (int i = threadIdx.x; i < 16 * min(8 * TILES, count); i += THREADS) {
        const int row = 16 * tile + i % 16;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < THREADS / 32; ++w) sum += parts[w * TILES * 128 + i];
        if (row < a.rows) a.out[(size_t)of[i / 16] * a.rows + row] = to_bfloat16(sum);
    }
}

// All of this block's rows of the layer times up to 8 TILES rows of x, all at one width.
template <int WIDTH> __device__ __forceinline__ void pass(const Layer &a, const int *of, int count, float *parts) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tiles = (a.rows + 15) / 16;
    const u16 *x[TILES];  // a place that is not taken repeats the last: what comes of it is not stored
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
        x[tile] = a.x + (size_t)of[min(8 * tile + lane / 4, count - 1)] * a.columns + 4 * (lane % 4);
    const u32 raw = TABLE_BYTES + PARTS_BYTES + warp * RAW_BYTES;
    Decoder<WIDTH> decoder;
    if (blockIdx.x < tiles) decoder.order(a, blockIdx.x, raw);
    Feed<WIDTH> feed(a, TABLE_BYTES + PARTS_BYTES + THREADS / 32 * RAW_BYTES);
    Columns columns;
    if (warp < feed.steps) load(columns, a, x, 128 * warp * SPAN<WIDTH>);
    u32 stage = feed.at;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        feed.order(a);
        wait_for_copies<1>();
        decoder.build(raw);
        if (tile + gridDim.x < tiles) decoder.order(a, tile + gridDim.x, raw);
        copies_ordered();
        __syncthreads();
        float sums[TILES][2][4] = {};
        for (int step = warp; step < feed.steps; step += THREADS / 32) {
            if (step != warp) {
                feed.order(a);
                wait_for_copies<1>();
            }
            Loaded<WIDTH> planes;
            take(planes, stage);
            const int after = step + THREADS / 32 < feed.steps ? step + THREADS / 32 : warp;
#pragma unroll
            for (int b = 0; b < SPAN<WIDTH>; ++b) {
                Columns next;
                load(next, a, x, b + 1 < SPAN<WIDTH> ? 128 * (step * SPAN<WIDTH> + b + 1) : 128 * after * SPAN<WIDTH>);
                if (WHOLE || step * SPAN<WIDTH> + b < a.words / 4) multiply(decoder, planes, b, columns, sums);
                columns = next;
            }
            stage = stage == feed.at ? feed.at + STAGE_BYTES : feed.at;
        }
        leave(sums, parts);
        __syncthreads();
        add(a, of, count, tile, parts);
    }
    wait_for_copies<0>();
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) few(const Layer a) {
    __shared__ Tokens tokens;
    float *parts = (float *)(shared + TABLE_BYTES / 4);  // (warps, 8 TILES rows of x, 16 rows of the layer)
    sort_tokens(a, tokens);
#define PASS(W) \
    for (int begin = tokens.begin[W]; begin < tokens.begin[W + 1]; begin += 8 * TILES) \
        pass<W>(a, tokens.of + begin, tokens.begin[W + 1] - begin, parts);
    EACH_WIDTH(PASS)
#undef PASS
    for (int i = 0; i < a.m; ++i) {
        if (a.widths[i]) continue;
        for (int row = blockIdx.x * THREADS + threadIdx.x; row < a.rows; row += gridDim.x * THREADS) a.out[(size_t)i * a.rows + row] = 0;
    }
}
