// What the kernels share: types, the transposition of planes into codes, and the machine's own instructions.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;

#ifndef ON_CPU  // the tests compile the kernels for a CPU, with stand-ins for what is here

extern __shared__ __align__(1024) u32 shared[];

__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Copies BYTES (4, 8 or 16) of this thread's to a byte of the block's dynamic shared memory, sometime.
template <int BYTES> __device__ __forceinline__ void copy_async(u32 to, const u32 *from) {
    const u32 at = (u32)__cvta_generic_to_shared(shared) + to;
    if (BYTES == 16) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(at), "l"(from));
    else asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(BYTES));
}
__device__ __forceinline__ void copies_ordered() { asm volatile("cp.async.commit_group;"); }
template <int LATER> __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory"); }

// A function of three words bit by bit, by its table. Written out, for the compiler would make two instructions of it.
template <u32 TABLE> __device__ __forceinline__ u32 lop3(u32 a, u32 b, u32 c) {
    u32 made;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(made) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return made;
}

#endif

// What a product reads and writes; launches.py has the same.
struct Layer {
    const u32 *planes;    // (P, N, KW)
    const u16 *tables;    // (N / group, stride) bfloat16
    const int *widths;    // (m,)
    const u16 *x;         // (m, K) bfloat16
    u16 *out;             // (m, N) bfloat16
    int m, rows, columns, words, group, stride;
    int first[9];         // where the table of a width begins in a row's tables
};

__device__ __forceinline__ const u16 *table_of(const Layer &a, int row) {
    return a.tables + (size_t)(min(row, a.rows - 1) / a.group) * a.stride;
}

// Bits of a where the mask has ones, of b elsewhere.
template <u32 MASK> __device__ __forceinline__ u32 pick(u32 a, u32 b) { return lop3<0xE2>(a, MASK, b); }

__device__ __forceinline__ const u32 *shared_at(u32 byte) { return (const u32 *)((const char *)shared + byte); }

// The word at a byte of shared memory.
__device__ __forceinline__ u32 shared_word(u32 byte) { return *shared_at(byte); }

// Byte b of a word, times 64 or 128, and the bits of `rest` below.
template <int TIMES> __device__ __forceinline__ u32 byte_times(u32 word, int b, u32 rest) {
    constexpr int LOG = TIMES == 128 ? 7 : 6;
    return lop3<0xEA>(b ? word >> (8 * b - LOG) : word << LOG, 0xFF * TIMES, rest);
}

template <int COUNT> __device__ __forceinline__ void load_words(u32 *to, const u32 *from) {
    if (COUNT == 4) *(uint4 *)to = *(const uint4 *)from;
    else if (COUNT == 2) *(uint2 *)to = *(const uint2 *)from;
    else to[0] = *from;
}

__device__ __forceinline__ void load_pair(u32 &first, u32 &second, const u16 *from) {
    const uint2 both = *(const uint2 *)from;
    first = both.x;
    second = both.y;
}

__device__ __forceinline__ void store_four(u32 *to, u32 word) { *(uint4 *)to = make_uint4(word, word, word, word); }

__device__ __forceinline__ void store_two(u32 *to, u32 word) { *(uint2 *)to = make_uint2(word, word); }

__device__ __forceinline__ u16 to_bfloat16(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// Four words of eight codes, one a nibble, from the words of COUNT planes (at most 4), the first most significant.
//
// Bit 4 j + i of the planes comes to nibble j of word i: a transposition of four by four bits, in two steps.
template <int FIRST, int COUNT, int WIDTH, int SPANNED>
__device__ __forceinline__ void nibbles(const u32 (&plane)[WIDTH][SPANNED], int block, u32 (&word)[4]) {
    const auto of = [&](int i) { return i < COUNT ? plane[i < COUNT ? FIRST + COUNT - 1 - i : 0][block] : 0; };
    const u32 d = of(0), c = of(1), b = of(2), a = of(3);
    const u32 even_low = pick<0x55555555>(d, c << 1), odd_low = pick<0x55555555>(d >> 1, c);
    const u32 even_high = pick<0x55555555>(b, a << 1), odd_high = pick<0x55555555>(b >> 1, a);
    word[0] = pick<0x33333333>(even_low, even_high << 2);
    word[1] = pick<0x33333333>(odd_low, odd_high << 2);
    word[2] = pick<0x33333333>(even_low >> 2, even_high);
    word[3] = pick<0x33333333>(odd_low >> 2, odd_high);
}

// A table of up to eight weights in registers, their low and high bytes apart.
struct Bytes {
    u32 low[2], high[2];
    __device__ __forceinline__ void split(const u32 *table) {
        u32 entry[4];
        load_words<4>(entry, table);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            low[i] = __byte_perm(entry[2 * i], entry[2 * i + 1], 0x6420);
            high[i] = __byte_perm(entry[2 * i], entry[2 * i + 1], 0x7531);
        }
    }
    // The weights of the four codes in the low nibbles of a word, as two pairs.
    __device__ __forceinline__ void look_up(u32 codes, u32 &first, u32 &second) const {
        const u32 l = __byte_perm(low[0], low[1], codes), h = __byte_perm(high[0], high[1], codes);
        first = __byte_perm(l, h, 0x5140);
        second = __byte_perm(l, h, 0x7362);
    }
};
