// What the kernels share: the machine's own instructions, and weights as bytes made from bit planes in registers.
//
// A tile is 16 rows of a layer by 256 columns, its planes one after another, most significant first, so that a width reads
// a prefix: 512 bytes a bit. A lane of a warp makes the bytes that the tensor cores take from it (mma.m16n8k32, A): lane
// 4 g + t has 32 registers of a tile, register 4 j + 2 h + r four columns from 32 j + 16 h + 4 t of row g + 8 r.
// layout.py says which bit of a plane is which register's.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;

#ifndef ON_CPU  // the tests compile the kernels for a CPU, with stand-ins for what is here
#define DEVICE __device__ __forceinline__

extern __shared__ __align__(1024) char shared[];

// Adds 16 rows of unsigned bytes by 32 columns, times 8 tokens' signed bytes, to whole numbers.
DEVICE void mma(int (&c)[4], const u32 *a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes of this thread's into the block's dynamic shared memory, sometime.
DEVICE void copy_async(char *to, const char *from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
DEVICE void copies_ordered() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LATER> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory"); }

// Eight tokens' bytes of 64 columns, the Q-th of a half unit: b0 and b1 of two products. A token has 128 bytes, in 16-byte pieces
// that lie at their number xor the token's.
DEVICE void load_tokens(u32 (&to)[4], const char *tokens, int q) {
    const int lane = threadIdx.x % 32, token = lane % 8;
    const u32 at = (u32)__cvta_generic_to_shared(tokens) + 128 * token + 16 * (4 * q + lane / 8 ^ token);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
}

// A byte of two words for each of the low four nibbles of `which`; a nibble from 8 on repeats that byte's sign bit.
DEVICE u32 bytes_of(u32 low, u32 high, u32 which) {
    u32 made;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(made) : "r"(low), "r"(high), "r"(which));
    return made;
}

// A function of three words bit by bit, by its table. Written out, for the compiler would make two instructions of it.
template <u32 TABLE> DEVICE u32 lop3(u32 a, u32 b, u32 c) {
    u32 made;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(made) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return made;
}

// The larger of two bfloat16 values, in either half.
DEVICE u32 larger_pair(u32 a, u32 b) {
    u32 made;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(made) : "r"(a), "r"(b));
    return made;
}

DEVICE u16 to_bfloat16(float value) {
    u16 made;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(made) : "f"(value));
    return made;
}

// A kernel that was launched to begin before the one ahead of it ends waits for that one's results.
#if __CUDA_ARCH__ >= 900
DEVICE void wait_for_kernel_ahead() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_kernel_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE int cluster_size() { u32 n; asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n)); return n; }
DEVICE int cluster_rank() { u32 n; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(n)); return n; }
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Two whole numbers in the shared memory of a block of this cluster.
DEVICE int2 of_block(const int *at, int rank) {
    u32 there;
    int2 found;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"((u32)__cvta_generic_to_shared(at)), "r"(rank));
    asm volatile("ld.shared::cluster.v2.s32 {%0, %1}, [%2];" : "=r"(found.x), "=r"(found.y) : "r"(there) : "memory");
    return found;
}
#else
DEVICE void wait_for_kernel_ahead() {}
DEVICE void let_next_kernel_begin() {}
DEVICE int cluster_size() { return 1; }
DEVICE int cluster_rank() { return 0; }
DEVICE void cluster_barrier() { __syncthreads(); }
DEVICE int2 of_block(const int *at, int) { return *(const int2 *)at; }
#endif
#endif

constexpr int UNIT = 256;        // columns of a tile
constexpr int PLANE = 512;       // bytes of one bit of a tile
constexpr int RECORD = 32;       // bytes of a row's tables: 8 weights of 3 bits, 16 of 4 bits, the scale, 4 weights of 2 bits
constexpr int SCALE_AT = 24;

// A layer as layout.py arranges it.
struct Layer {
    const char *planes;  // (tiles, units, tile_bytes)
    const char *rows;    // (16 tiles, RECORD)
    int n, units, tile_bytes;
};

constexpr int X_BYTES = 2048;  // of a granule of eight tokens and a unit

// What gemm.cu and hopper_gemm.cu read and write; launches.py has the same.
struct Gemm {
    Layer layer;
    const char *x;        // (units, granules, X_BYTES) in the order of quantize.cu
    const float *scales;  // of each place of x
    const int *sums;      // the same
    const int *row_of;    // the row of x at each place, or -1
    const int *widths;    // of each row of x
    u16 *out;             // (m, n) bfloat16
    int m, granules, columns_first;  // whether blockIdx.x counts a row of blocks' columns, or y does; in gemm.cu alone
    int tiles, shared_bytes;         // `tiles`: of 16 rows of the layer, that a block takes at once; both in hopper_gemm.cu alone
};

struct Token {  // a place of x, as the end of a kernel needs it
    int row, bias;
    float scale;
};

// Widths of 5 and 7 bits read the same planes as 6 and 8, and are computed as those.
DEVICE int step_of(int width) { return width <= 4 ? width : width <= 6 ? 6 : 8; }

// What a byte of each step is too large by.
DEVICE int bias_of(int step) { return step <= 3 ? 128 : step == 4 ? 120 : step == 6 ? 126 : 128; }

DEVICE float scale_of(const Layer &layer, int row) { return *(const float *)(layer.rows + (size_t)row * RECORD + SCALE_AT); }

// The one rounding of every path: a sum of whole numbers, the row's scale, then the token's.
DEVICE float scaled(int sum, float weight_scale, float token_scale) { return token_scale * (weight_scale * (float)sum); }

template <int LEFT> DEVICE u32 shifted(u32 word) { return LEFT >= 0 ? word << (LEFT < 0 ? 0 : LEFT) : word >> (LEFT < 0 ? -LEFT : 0); }

struct Tables {  // of one row
    u32 two, three[2], four[2][2];
    DEVICE void load(const Layer &layer, int row) {
        const uint4 a = *(const uint4 *)(layer.rows + (size_t)row * RECORD), b = *(const uint4 *)(layer.rows + (size_t)row * RECORD + 16);
        three[0] = a.x; three[1] = a.y; four[0][0] = a.z; four[0][1] = a.w; four[1][0] = b.x; four[1][1] = b.y; two = b.w;
    }
};

// A lane's words of 128 columns of a tile, which are 16 registers; W is the widest step that is read.
template <int W> struct Words {
    u32 a[4], b[2][2], c[2], d[4], e[4];

    DEVICE void load(const char *at, int half) {  // at: this lane's 16 bytes of the first plane
        *(uint4 *)a = *(const uint4 *)(at + PLANE * half);
        if (W >= 3) {
            u32 raw[2];
            *(uint2 *)raw = *(const uint2 *)(at + 2 * PLANE + 8 * half);
#pragma unroll
            for (int q = 0; q < 2; ++q) { b[q][0] = raw[q] & 0x55555555; b[q][1] = raw[q] >> 1 & 0x55555555; }
        }
        if (W >= 4) *(uint2 *)c = *(const uint2 *)(at + 3 * PLANE + 8 * half);
        if (W >= 6) *(uint4 *)d = *(const uint4 *)(at + 4 * PLANE + PLANE * half);
        if (W >= 8) *(uint4 *)e = *(const uint4 *)(at + 6 * PLANE + PLANE * half);
    }
    // Eight nibbles: the three-bit codes of registers r and r + 1 (two bits each at W == 2).
    template <int R> DEVICE u32 codes() const {
        const u32 low = shifted<R % 4 ? -2 : 0>(a[R / 4]);
        if (W == 2) return low & 0x33333333;
        constexpr int PAIR = R % 8 / 2;
        return lop3<0xCA>(0x33333333, low, shifted<PAIR / 2 ? 0 : 2>(b[R / 8][PAIR % 2]));
    }
    // The weights of four bits.
    template <int R> DEVICE u32 four(u32 codes, const Tables &tables) const {
        const u32 which = bytes_of(shifted<R % 8>(c[R / 8]), 0, 0xBA98);
        const u32 lower = bytes_of(tables.four[0][0], tables.four[0][1], codes), upper = bytes_of(tables.four[1][0], tables.four[1][1], codes);
        return lop3<0xCA>(which, upper, lower);
    }
    // What six bits add to a weight of four.
    template <int R> DEVICE u32 upper_rest() const {
        constexpr int I = R % 4;
        return shifted<I == 0 ? -4 : I == 1 ? 0 : I == 2 ? -2 : 2>(d[R / 4]) & 0x0C0C0C0C;
    }
    // What eight bits add to a weight of six.
    template <int R> DEVICE u32 lower_rest() const {
        constexpr int I = R % 4;
        return shifted<I == 0 ? -6 : I == 1 ? -2 : I == 2 ? -4 : 0>(e[R / 4]) & 0x03030303;
    }
    // What eight bits add to the weights of four in registers 4 Q ... 4 Q + 3.
    template <int Q> DEVICE void rest(u32 (&to)[4]) const {
        const u32 x = lop3<0xCA>(0xCCCCCCCC, d[Q], e[Q] >> 2), y = lop3<0xCA>(0xCCCCCCCC, d[Q] << 2, e[Q]);
        to[0] = x >> 4 & 0x0F0F0F0F; to[1] = x & 0x0F0F0F0F; to[2] = y >> 4 & 0x0F0F0F0F; to[3] = y & 0x0F0F0F0F;
    }
};

template <int VALUE> struct Number { __device__ constexpr operator int() const { return VALUE; } };

template <int N, int I = 0, typename F> DEVICE void each(F f) {  // f(0) ... f(N - 1), with numbers that the compiler knows
    if constexpr (I < N) {
        f(Number<I>());
        each<N, I + 1>(f);
    }
}

// What the tables are looked up with, for two registers each.
template <int W> DEVICE void codes_of(u32 (&to)[8], const Words<W> &words) {
    each<8>([&](auto pair) { to[pair] = words.template codes<2 * pair>(); });
}

// The 16 registers of half a tile at a step up to 4, for rows g and g + 8.
template <int STEP, int W> DEVICE void look_up(u32 (&to)[16], const u32 (&codes)[8], const Words<W> &words, const Tables (&tables)[2]) {
    each<8>([&](auto pair) {
        constexpr int R = 2 * pair;
        const u32 those = codes[pair], others = those >> 16;
        if (STEP == 2) { to[R] = bytes_of(tables[0].two, 0, those & 0x33333333); to[R + 1] = bytes_of(tables[1].two, 0, others & 0x33333333); }
        if (STEP == 3) { to[R] = bytes_of(tables[0].three[0], tables[0].three[1], those); to[R + 1] = bytes_of(tables[1].three[0], tables[1].three[1], others); }
        if constexpr (STEP == 4) { to[R] = words.template four<R>(those, tables[0]); to[R + 1] = words.template four<R + 1>(others, tables[1]); }
    });
}

// The same at any step up to W; FROM is the step that `to` holds already, or nothing.
template <int STEP, int W, int FROM = 0> DEVICE void decode(u32 (&to)[16], const Words<W> &words, const Tables (&tables)[2]) {
    if constexpr (!FROM) {
        u32 codes[8];
        codes_of(codes, words);
        look_up<(STEP < 4 ? STEP : 4)>(to, codes, words, tables);
    }
    if constexpr (STEP == 6) each<16>([&](auto r) { to[r] += words.template upper_rest<r>(); });
    if constexpr (STEP == 8 && FROM == 6) each<16>([&](auto r) { to[r] += words.template lower_rest<r>(); });
    if constexpr (STEP == 8 && FROM != 6)
        each<4>([&](auto q) {
            u32 rest[4];
            words.template rest<q>(rest);
#pragma unroll
            for (int i = 0; i < 4; ++i) to[4 * q + i] += rest[i];
        });
}

// The 16 registers of a step, 6 or 8, from those of the step below, 4 or 6.
template <int STEP, int W> DEVICE void widen(u32 (&to)[16], const u32 (&from)[16], const Words<W> &words) {
    each<16>([&](auto r) { to[r] = from[r] + (STEP == 6 ? words.template upper_rest<r>() : words.template lower_rest<r>()); });
}

// What a step, 6 or 8, adds to the step below, 4 or 6.
template <int STEP, int W> DEVICE void added(u32 (&to)[16], const Words<W> &words) {
    each<16>([&](auto r) { to[r] = STEP == 6 ? words.template upper_rest<r>() : words.template lower_rest<r>(); });
}

// Whether a product of rows of step `of` takes what each_part makes for `step`.
DEVICE bool takes_part(int of, int step) { return step < 4 ? of == step : of >= step; }

// What the steps that `has` names (bit STEP) are sums of, each once: the weights of 2 and 3 bits, those of 4, and what 6 and 8 add.
// The products of these add up to those of a step, without making its weights: use(step, registers).
template <int W, typename Use> DEVICE void each_part(int has, const Words<W> &words, const Tables (&tables)[2], Use use) {
    u32 made[16], codes[8];
    codes_of(codes, words);
    if (has >> 2 & 1) { look_up<2>(made, codes, words, tables); use(Number<2>(), made); }
    if (has >> 3 & 1) { look_up<3>(made, codes, words, tables); use(Number<3>(), made); }
    if constexpr (W >= 4) {
        if (has >> 4) { look_up<4>(made, codes, words, tables); use(Number<4>(), made); }
    }
    if constexpr (W >= 6) {
        if (has >> 6) { added<6>(made, words); use(Number<6>(), made); }
    }
    if constexpr (W == 8) {
        if (has >> 8) { added<8>(made, words); use(Number<8>(), made); }
    }
}

// For each step that `has` names (bit STEP), ascending, its registers from one decoding: use(step, registers).
template <int W, typename Use> DEVICE void each_step(int has, const Words<W> &words, const Tables (&tables)[2], Use use) {
    u32 made[16], codes[8];
    codes_of(codes, words);
    if (has >> 2 & 1) { look_up<2>(made, codes, words, tables); use(Number<2>(), made); }
    if (has >> 3 & 1) { look_up<3>(made, codes, words, tables); use(Number<3>(), made); }
    if constexpr (W >= 4) {
        if (has < 16) return;
        look_up<4>(made, codes, words, tables);
        if (has >> 4 & 1) use(Number<4>(), made);
    }
    if constexpr (W >= 6) {
        if (has >> 6 & 1) { decode<6, W, 4>(made, words, tables); use(Number<6>(), made); }
    }
    if constexpr (W == 8) {
        if (has < 256) return;
        if (has >> 6 & 1) decode<8, W, 6>(made, words, tables);
        else decode<8, W, 4>(made, words, tables);
        use(Number<8>(), made);
    }
}

// Where four neighbouring columns of a token lie in the order in which lanes take x: (unit, quarter, token, 4 lanes, 16 bytes).
DEVICE size_t fragment_at(int column, int token, int tokens) {
    const int k = column % UNIT, j = k / 32;
    return ((size_t)(column / UNIT * 4 + j / 2) * tokens + token) * 64 + k % 16 / 4 * 16 + j % 2 * 8 + k % 32 / 16 * 4;
}

DEVICE float of_bfloat16(u32 pair, int which) {
    const u32 bits = which ? pair & 0xFFFF0000 : pair << 16;
    return __uint_as_float(bits);
}

// The largest of eight values without their signs, of each half.
DEVICE u32 largest_of(const uint4 &eight) {
    constexpr u32 UNSIGNED = 0x7FFF7FFF;
    return larger_pair(larger_pair(eight.x & UNSIGNED, eight.y & UNSIGNED), larger_pair(eight.z & UNSIGNED, eight.w & UNSIGNED));
}

DEVICE float warp_largest(u32 pair) {
    float most = fmaxf(of_bfloat16(pair, 0), of_bfloat16(pair, 1));
#pragma unroll
    for (int i = 16; i; i /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
    return most;
}

DEVICE int warp_sum(int sum) {
#pragma unroll
    for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
    return sum;
}

// Four values to signed bytes; `sum` grows by them. Added to so large a number, a value is rounded to a whole one in its low bits.
DEVICE u32 quantized(u32 first, u32 second, float times, int &sum) {
    constexpr float LARGE = 3 << 22;
    const auto whole = [&](u32 pair, int which) { return __float_as_uint(__fadd_rn(__fmul_rn(of_bfloat16(pair, which), times), LARGE)); };
    const u32 low = bytes_of(whole(first, 0), whole(first, 1), 0x0040), high = bytes_of(whole(second, 0), whole(second, 1), 0x0040);
    const u32 word = bytes_of(low, high, 0x5410);
    sum = __dp4a((int)word, 0x01010101, sum);
    return word;
}
