// Stand-ins that let g++ compile a kernel and run it on a CPU: one thread of the system for each thread of a block.
#pragma once
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define ON_CPU
#define DEVICE inline
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

using std::max;
using std::min;
using std::size_t;
struct int2 { int x, y; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index { unsigned x = 0, y = 0, z = 0; };
inline thread_local Index threadIdx;
inline Index blockIdx, blockDim, gridDim;
alignas(1024) inline char shared[228 * 1024];  // what a block may have

struct Warp {
    std::barrier<> met{32};
    unsigned a[32][4], b[32][2];
};
inline std::vector<std::unique_ptr<Warp>> warps_of_block;
inline std::unique_ptr<std::barrier<>> block;

inline void __syncthreads() { block->arrive_and_wait(); }
inline void __syncwarp() { warps_of_block[threadIdx.x / 32]->met.arrive_and_wait(); }

// A word of every lane, seen by all of its warp.
template <typename Use> auto with_lanes(unsigned mine, Use use) {
    Warp &warp = *warps_of_block[threadIdx.x / 32];
    warp.b[threadIdx.x % 32][0] = mine;
    warp.met.arrive_and_wait();
    const auto found = use(warp.b);
    warp.met.arrive_and_wait();
    return found;
}
template <typename Value> Value __shfl_xor_sync(unsigned, Value value, int other) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    bits = with_lanes(bits, [&](auto &all) { return all[threadIdx.x % 32 ^ other][0]; });
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __ballot_sync(unsigned, bool yes) {
    return with_lanes(yes, [](auto &all) {
        unsigned found = 0;
        for (int lane = 0; lane < 32; ++lane) found |= all[lane][0] << lane;
        return found;
    });
}
inline int __popc(unsigned word) { return __builtin_popcount(word); }

template <unsigned TABLE> unsigned lop3(unsigned a, unsigned b, unsigned c) {
    unsigned made = 0;
    for (int i = 0; i < 8; ++i)
        if (TABLE >> i & 1) made |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return made;
}

inline unsigned bytes_of(unsigned low, unsigned high, unsigned which) {
    const unsigned long long all = (unsigned long long)high << 32 | low;
    unsigned made = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned nibble = which >> 4 * i & 15, byte = (unsigned)(all >> 8 * (nibble & 7)) & 0xFF;
        made |= (nibble & 8 ? (byte & 0x80 ? 0xFFu : 0u) : byte) << 8 * i;
    }
    return made;
}

// mma.m16n8k32 as PTX defines its fragments: unsigned bytes times signed ones.
inline void mma(int (&c)[4], const unsigned *a, unsigned b0, unsigned b1) {
    Warp &warp = *warps_of_block[threadIdx.x / 32];
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    std::memcpy(warp.a[lane], a, sizeof warp.a[lane]);
    warp.b[lane][0] = b0;
    warp.b[lane][1] = b1;
    warp.met.arrive_and_wait();
    for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        for (int k = 0; k < 32; ++k) {
            const int quad = k % 16 / 4, upper = k / 16, shift = k % 4 * 8;
            const int weight = warp.a[row % 8 * 4 + quad][row / 8 + 2 * upper] >> shift & 0xFF;
            c[i] += weight * (signed char)(warp.b[column * 4 + quad][upper] >> shift & 0xFF);
        }
    }
    warp.met.arrive_and_wait();
}

inline void load_tokens(unsigned (&to)[4], const char *tokens, int q) {
    const int lane = threadIdx.x % 32, token = lane / 4;
    for (int i = 0; i < 4; ++i) std::memcpy(to + i, tokens + 128 * token + 16 * (4 * q + i ^ token) + lane % 4 * 4, 4);
}

inline unsigned short to_bfloat16(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned larger_pair(unsigned a, unsigned b) {  // of values without signs, whose bits are ordered as they are
    return max(a & 0xFFFF, b & 0xFFFF) | max(a & 0xFFFF0000, b & 0xFFFF0000);
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += (signed char)(a >> i) * (signed char)(b >> i);
    return sum;
}
inline int __clz(int word) { return word ? __builtin_clz(word) : 32; }
inline int atomicAdd(int *to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
inline unsigned atomicOr(unsigned *to, unsigned value) { return __atomic_fetch_or(to, value, __ATOMIC_RELAXED); }

inline void copy_async(char *to, const char *from) { std::memcpy(to, from, 16); }
inline void copies_ordered() {}
template <int LATER> void wait_for_copies() {}
inline void wait_for_kernel_ahead() {}
inline void let_next_kernel_begin() {}
inline int cluster_size() { return 1; }
inline int cluster_rank() { return 0; }
inline void cluster_barrier() { __syncthreads(); }
inline int2 of_block(const int *at, int) { return {at[0], at[1]}; }

template <typename Kernel> void launch(Kernel kernel, Index grid, unsigned threads) {
    blockDim = {threads, 1, 1};
    gridDim = grid;
    block = std::make_unique<std::barrier<>>(threads);
    warps_of_block.clear();
    for (unsigned w = 0; w < threads / 32; ++w) warps_of_block.push_back(std::make_unique<Warp>());
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                std::memset(shared, 0xA5, sizeof shared);
                std::vector<std::thread> running;
                for (unsigned i = 0; i < threads; ++i) running.emplace_back([=] { threadIdx = {i, 0, 0}; kernel(); });
                for (auto &each : running) each.join();
            }
}
