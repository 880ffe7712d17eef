// Weights of lanes.h for ggml: a buffer type whose set_tensor rearranges, and the products with, and rows of, what lies in it.
//
// As with ggml's own `CPU_REPACK` the loader asks for each weight which buffer type takes part in the operation it is for;
// the first that does gets it.
#include "buffer.h"

#include "lanes.h"

#ifdef LP_LANES
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "traits.h"
#include "repack.h"

#include <algorithm>
#include <pthread.h>
#include <sched.h>
#include <vector>

using namespace llamapen;

// isolation/pen/hooks.h: the thread is in the fault domain of the one that starts it.
extern "C" int lp_pen_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*body)(void *), void * data);

namespace {

ggml_backend_buffer_type_t buffer_type();

bool has_format(ggml_type type) { return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q4_1 || type == GGML_TYPE_Q8_0; }

lanes::Format format(ggml_type type) {
    return type == GGML_TYPE_Q4_0 ? lanes::Format::Q4_0 : type == GGML_TYPE_Q4_1 ? lanes::Format::Q4_1 : lanes::Format::Q8_0;
}

bool fits(const ggml_tensor * weights) {
    return has_format(weights->type) && ggml_n_dims(weights) == 2 && weights->ne[0] % lanes::BLOCK == 0 &&
           weights->ne[1] % lanes::ROWS == 0 && ggml_is_contiguous(weights);
}

// Up to this many columns each thread quantises all of them for itself, which takes less time than to wait for the others.
constexpr int64_t FEW = 4;

// The columns of src1, those of all its planes, and where they and their results are.
struct Columns {
    const ggml_tensor * from;
    ggml_tensor * to;
    int64_t blocks = from->ne[0] / lanes::BLOCK;
    int64_t count = ggml_nrows(from);

    const float * values(int64_t c) const { return at<const float>(from, c); }
    float * results(int64_t c) const { return at<float>(to, c); }

    template <typename T> static T * at(const ggml_tensor * tensor, int64_t c) {
        const int64_t *ne = tensor->ne, i1 = c % ne[1], i2 = c / ne[1] % ne[2], i3 = c / ne[1] / ne[2];
        return reinterpret_cast<T *>(static_cast<char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3]);
    }
};

class Product : public ggml::cpu::tensor_traits {
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        if (op->op != GGML_OP_MUL_MAT) return false;
        const Columns columns{op->src[1], nullptr};
        const int64_t copies = columns.count <= FEW ? threads : 1;
        size = columns.count * columns.blocks * copies * sizeof(lanes::Activations);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT) return false;
        const Columns columns{op->src[1], op};
        const ggml_tensor * weights = op->src[0];
        const int64_t groups = weights->ne[1] / lanes::ROWS, ith = params->ith, nth = params->nth;
        auto * work = static_cast<lanes::Activations *>(params->wdata);
        if (columns.count <= FEW) {
            work += ith * columns.count * columns.blocks;
            for (int64_t c = 0; c < columns.count; c++) lanes::quantize(columns.values(c), columns.blocks, work + c * columns.blocks);
            multiply(weights, columns, work, groups * ith / nth, groups * (ith + 1) / nth);
            return true;
        }
        for (int64_t c = ith; c < columns.count; c += nth) lanes::quantize(columns.values(c), columns.blocks, work + c * columns.blocks);
        // More chunks than threads: one that is held up leaves its share to the others.
        const int64_t chunks = std::min(groups, nth == 1 ? 1 : nth * 4);
        if (ith == 0) ggml_threadpool_chunk_set(params->threadpool, nth);
        ggml_barrier(params->threadpool);
        for (int64_t chunk = ith; chunk < chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            multiply(weights, columns, work, groups * chunk / chunks, groups * (chunk + 1) / chunks);
        }
        return true;
    }

    // Of the groups of rows from `first` to `end`. A group stays in the first cache while all columns pass.
    static void multiply(const ggml_tensor * weights, const Columns & columns, const lanes::Activations * values, int64_t first, int64_t end) {
        const lanes::Format of = format(weights->type);
        const lanes::Activations * from[lanes::COLUMNS];
        float * to[lanes::COLUMNS];
        for (int64_t group = first; group < end; group++) {
            const auto * data = static_cast<const uint8_t *>(weights->data) + group * lanes::ROWS * weights->nb[1];
            for (int64_t c = 0; c < columns.count; c += lanes::COLUMNS) {
                const int64_t n = std::min(lanes::COLUMNS, columns.count - c);
                for (int64_t i = 0; i < n; i++) {
                    from[i] = values + (c + i) * columns.blocks;
                    to[i] = columns.results(c + i) + group * lanes::ROWS;
                }
                lanes::multiply(of, data, columns.blocks, n, from, to);
            }
        }
    }
};

// Rows, such as those of the tokens in embeddings that are the output layer, too.
class Lookup : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t & size) override {
        size = 0;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor *weights = op->src[0], *ids = op->src[1];
        for (int64_t i = params->ith; i < ids->ne[0]; i += params->nth) {
            const int32_t id = *reinterpret_cast<const int32_t *>(static_cast<const char *>(ids->data) + i * ids->nb[0]);
            GGML_ASSERT(id >= 0 && id < weights->ne[1]);
            const int64_t row = id % lanes::ROWS;
            const auto * group = static_cast<const uint8_t *>(weights->data) + (id - row) * weights->nb[1];
            auto * to = reinterpret_cast<float *>(static_cast<char *>(op->data) + i * op->nb[1]);
            lanes::unpack_row(format(weights->type), group, row, weights->ne[0] / lanes::BLOCK, to);
        }
        return true;
    }
};

class Lanes : public ggml::cpu::extra_buffer_type {
    // While a model is loaded its weights have no data yet: what is only looked up then stays in the file, of which no more is in
    // memory than the rows that are used. What has data is here for the sake of products.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor *weights = op->src[0], *values = op->src[1];
        if (op->op == GGML_OP_GET_ROWS) return is_ours(weights) && weights->data != nullptr && values->type == GGML_TYPE_I32 && op->type == GGML_TYPE_F32;
        return op->op == GGML_OP_MUL_MAT && is_ours(weights) && fits(weights) && values->type == GGML_TYPE_F32 &&
               values->nb[0] == sizeof(float) && (values->buffer == nullptr || ggml_backend_buft_is_host(values->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static Product product;
        static Lookup lookup;
        if (op->src[0] == nullptr || !is_ours(op->src[0])) return nullptr;
        if (op->op == GGML_OP_GET_ROWS) return &lookup;
        return op->op == GGML_OP_MUL_MAT ? &product : nullptr;
    }

    static bool is_ours(const ggml_tensor * tensor) { return tensor->buffer != nullptr && tensor->buffer->buft == buffer_type(); }
};

// Some rows of a tensor to be rearranged.
struct Part {
    const ggml_tensor * tensor;
    const uint8_t * data;
    int64_t first, end;

    static void * pack(void * data) {
        const Part & part = *static_cast<Part *>(data);
        const size_t offset = part.first * part.tensor->nb[1];
        lanes::pack(format(part.tensor->type), part.data + offset, part.end - part.first, part.tensor->ne[0] / lanes::BLOCK,
                    static_cast<uint8_t *>(part.tensor->data) + offset);
        return nullptr;
    }
};

// Fewer bytes are rearranged before a thread has started. Beyond so many threads memory is what they wait for.
constexpr size_t PART = size_t{1} << 20;
constexpr int64_t MOST_PARTS = 16;

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor) && fits(tensor));
    cpu_set_t cpus;
    const int64_t may_use = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    const int64_t groups = tensor->ne[1] / lanes::ROWS;
    const int64_t n = std::clamp<int64_t>(size / PART, 1, std::min({may_use, MOST_PARTS, groups}));
    std::vector<Part> parts;
    for (int64_t i = 0; i < n; i++) {
        parts.push_back({tensor, static_cast<const uint8_t *>(data), groups * i / n * lanes::ROWS, groups * (i + 1) / n * lanes::ROWS});
    }
    std::vector<pthread_t> threads;
    for (int64_t i = 1; i < n; i++) {
        pthread_t thread;
        if (lp_pen_pthread_create(&thread, nullptr, Part::pack, &parts[i]) == 0) threads.push_back(thread);
        else Part::pack(&parts[i]);
    }
    Part::pack(&parts[0]);
    for (const pthread_t thread : threads) pthread_join(thread, nullptr);
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    const ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer == nullptr) return nullptr;
    buffer->buft = type;
    buffer->iface.set_tensor = set_tensor;
    buffer->iface.get_tensor = nullptr;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

ggml_backend_buffer_type_t buffer_type() {
    static Lanes lanes;
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type type = {};
        type.iface.get_name = [](ggml_backend_buffer_type_t) { return "CPU_LANES"; };
        type.iface.alloc_buffer = alloc_buffer;
        type.iface.get_alignment = [](ggml_backend_buffer_type_t) -> size_t { return TENSOR_ALIGNMENT; };
        type.device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
        type.context = static_cast<ggml::cpu::extra_buffer_type *>(&lanes);
        return type;
    }();
    return &type;
}

}  // namespace

void lp_lanes_register(void) {
    // Once, in the order in which the loader asks: before ggml's rearranged weights, after what has hardware of its own (AMX).
    static const bool once = [] {
        auto & types = ggml_backend_cpu_get_extra_buffer_types();
        types.insert(std::find(types.begin(), types.end(), ggml_backend_cpu_repack_buffer_type()), buffer_type());
        return true;
    }();
    (void) once;
}
#else
void lp_lanes_register(void) {}
#endif
