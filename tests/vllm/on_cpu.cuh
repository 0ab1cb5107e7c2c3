// Stand-ins that let g++ compile a kernel and run it on a CPU: one thread of the system for each thread of a block.
#pragma once
#include <barrier>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define ON_CPU
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::min;
using std::size_t;
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index { unsigned x = 0, y = 0, z = 0; };
inline thread_local Index threadIdx;
inline Index blockIdx, blockDim, gridDim;
alignas(1024) inline unsigned shared[57 * 1024];  // what a block may have

struct Warp {
    std::barrier<> met{32};
    unsigned a[32][4], b[32][2];
};
inline std::vector<std::unique_ptr<Warp>> warps;
inline std::unique_ptr<std::barrier<>> block;

inline void __syncthreads() { block->arrive_and_wait(); }

inline void __syncwarp() { warps[threadIdx.x / 32]->met.arrive_and_wait(); }

template <unsigned TABLE> unsigned lop3(unsigned a, unsigned b, unsigned c) {
    unsigned made = 0;
    for (int i = 0; i < 8; ++i)
        if (TABLE >> i & 1) made |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return made;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned which) {
    const unsigned long long all = (unsigned long long)high << 32 | low;
    unsigned made = 0;
    for (int i = 0; i < 4; ++i) made |= (unsigned)(all >> 8 * (which >> 4 * i & 7) & 0xFF) << 8 * i;
    return made;
}

inline float half_of(unsigned pair, int which) {
    const unsigned bits = which ? pair & 0xFFFF0000u : pair << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// mma.m16n8k16 as PTX defines its fragments.
inline void mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    Warp &warp = *warps[threadIdx.x / 32];
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const unsigned mine[4] = {a0, a1, a2, a3};
    std::memcpy(warp.a[lane], mine, sizeof mine);
    warp.b[lane][0] = b0;
    warp.b[lane][1] = b1;
    warp.met.arrive_and_wait();
    for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        for (int k = 0; k < 16; ++k) {
            const int pair = k % 8 / 2, upper = k / 8;
            c[i] += half_of(warp.a[row % 8 * 4 + pair][row / 8 + 2 * upper], k % 2) * half_of(warp.b[column * 4 + pair][upper], k % 2);
        }
    }
    warp.met.arrive_and_wait();
}

// wgmma.m64nNk16: the first operand in registers as mma's, the second in shared memory, 128-byte rows of swizzled pieces.
template <int COUNT> void wgmma(float (&sums)[COUNT], const unsigned (&part)[4], unsigned at, bool add) {
    Warp &warp = *warps[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    std::memcpy(warp.a[lane], part, sizeof part);
    warp.met.arrive_and_wait();
    const char *slice = (const char *)shared + at / 128 * 128;
    for (int i = 0; i < COUNT; ++i) {
        const int place = i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2;
        float sum = add ? sums[i] : 0;
        for (int k = 0; k < 16; ++k) {
            const int piece = at % 128 / 16 + k / 8;
            unsigned pair;
            std::memcpy(&pair, slice + 128 * place + 16 * (piece ^ place % 8) + k % 8 / 2 * 4, 4);
            sum += half_of(warp.a[lane / 4 * 4 + k % 8 / 2][half + k / 8 * 2], k % 2) * half_of(pair, k % 2);
        }
        sums[i] = sum;
    }
    warp.met.arrive_and_wait();
}
inline void wgmma_begin() {}
inline void wgmma_commit() {}
template <int LATER> void wgmma_wait() {}
inline void visible_to_wgmma() {}
inline std::vector<std::unique_ptr<std::barrier<>>> groups;
inline void group_barrier(int group) { groups[group]->arrive_and_wait(); }

inline int atomicAdd(int *to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
inline unsigned __ballot_sync(unsigned, bool yes) {
    Warp &warp = *warps[threadIdx.x / 32];
    warp.b[threadIdx.x % 32][0] = yes;
    warp.met.arrive_and_wait();
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= warp.b[lane][0] << lane;
    warp.met.arrive_and_wait();
    return all;
}
inline int __popc(unsigned word) { return __builtin_popcount(word); }

template <int BYTES> void copy_async(unsigned to, const unsigned *from) { std::memcpy((char *)shared + to, from, BYTES); }
inline void copies_ordered() {}
template <int LATER> void wait_for_copies() {}
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <typename Kernel> void launch(Kernel kernel, Index grid, unsigned threads) {
    blockDim = {threads, 1, 1};
    gridDim = grid;
    block = std::make_unique<std::barrier<>>(threads);
    groups.clear();
    for (unsigned i = 0; i < threads / 128; ++i) groups.push_back(std::make_unique<std::barrier<>>(128));
    warps.clear();
    for (unsigned w = 0; w < threads / 32; ++w) warps.push_back(std::make_unique<Warp>());
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                std::vector<std::thread> running;
                for (unsigned i = 0; i < threads; ++i) running.emplace_back([=] { threadIdx = {i, 0, 0}; kernel(); });
                for (auto &each : running) each.join();
            }
}
