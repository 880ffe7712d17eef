// Products of the kernels for rearranged weights (src/native/kernels), beside those of ggml's own and exact ones.
//
// For each format, some shapes, numbers of columns and of threads: a column's bits are those that it has alone with one thread,
// and the error is no larger than that of ggml's kernel; rows that are looked up are those of the file. Prints what it compared, or
// the first thing that is wrong; exit code 1 then.
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

// src/native/kernels/buffer.h
extern "C" void lp_lanes_register(void);

using Row = std::vector<float>;

static void wrong(const std::string & what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
}

// The buffer type that the CPU offers under this name, as the loader of models finds it.
static ggml_backend_buffer_type_t named(const char * name) {
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t * type = extra(cpu); *type != nullptr; type++) {
        if (std::strcmp(ggml_backend_buft_name(*type), name) == 0) return *type;
    }
    return nullptr;
}

static ggml_context * new_graph_context() { return ggml_init({8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}); }

// The rows of a tensor that is computed, once `fill` has given the others in its context their values. Frees the context.
template <typename Fill> std::vector<Row> rows_of(ggml_backend_t backend, ggml_context * context, ggml_tensor * result, int threads, Fill fill) {
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, result);
    if (!ggml_backend_supports_op(backend, result)) wrong("the operation is not supported");
    const ggml_backend_buffer_t here = ggml_backend_alloc_ctx_tensors(context, backend);
    fill();
    ggml_backend_cpu_set_n_threads(backend, threads);
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) wrong("the graph failed");
    std::vector<Row> rows(ggml_nrows(result), Row(result->ne[0]));
    for (size_t r = 0; r < rows.size(); r++) {
        const size_t size = rows[r].size() * sizeof(float);
        ggml_backend_tensor_get(result, rows[r].data(), r * size, size);
    }
    ggml_backend_buffer_free(here);
    ggml_free(context);
    return rows;
}

// A matrix in a buffer of some type, its product with columns, and rows of it.
struct Matrix {
    ggml_context * context = ggml_init({ggml_tensor_overhead(), nullptr, true});
    ggml_tensor * tensor;
    ggml_backend_buffer_t buffer;

    Matrix(ggml_backend_buffer_type_t type, ggml_type format, int64_t width, int64_t rows, const std::vector<uint8_t> & data) {
        tensor = ggml_new_tensor_2d(context, format, width, rows);
        buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, type);
        ggml_backend_tensor_set(tensor, data.data(), 0, data.size());
    }
    ~Matrix() {
        ggml_backend_buffer_free(buffer);
        ggml_free(context);
    }

    // Columns in two planes where there is an even number of them.
    std::vector<Row> times(ggml_backend_t backend, const std::vector<Row> & columns, int threads) const {
        const int64_t n = static_cast<int64_t>(columns.size()), planes = n % 2 == 0 ? 2 : 1;
        ggml_context * graph_context = new_graph_context();
        ggml_tensor * values = ggml_new_tensor_3d(graph_context, GGML_TYPE_F32, tensor->ne[0], n / planes, planes);
        return rows_of(backend, graph_context, ggml_mul_mat(graph_context, tensor, values), threads, [&] {
            for (int64_t c = 0; c < n; c++) {
                ggml_backend_tensor_set(values, columns[c].data(), c * ggml_row_size(GGML_TYPE_F32, tensor->ne[0]), columns[c].size() * sizeof(float));
            }
        });
    }

    std::vector<Row> rows(ggml_backend_t backend, const std::vector<int32_t> & wanted, int threads) const {
        ggml_context * graph_context = new_graph_context();
        ggml_tensor * ids = ggml_new_tensor_1d(graph_context, GGML_TYPE_I32, static_cast<int64_t>(wanted.size()));
        return rows_of(backend, graph_context, ggml_get_rows(graph_context, tensor, ids), threads,
                       [&] { ggml_backend_tensor_set(ids, wanted.data(), 0, wanted.size() * sizeof(int32_t)); });
    }
};

static double error(const std::vector<Row> & results, const std::vector<std::vector<double>> & exact) {
    double square = 0, all = 0;
    for (size_t c = 0; c < exact.size(); c++) {
        for (size_t r = 0; r < exact[c].size(); r++) {
            square += std::pow(results[c][r] - exact[c][r], 2);
            all += std::pow(exact[c][r], 2);
        }
    }
    return std::sqrt(square / all);
}

int main() {
    lp_lanes_register();
    const ggml_backend_buffer_type_t lanes = named("CPU_LANES");
    if (lanes == nullptr) {
        std::puts("no kernels for this CPU");
        return 0;
    }
    const ggml_backend_t backend = ggml_backend_cpu_init();
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const int64_t shapes[][2] = {{32, 16}, {64, 48}, {576, 192}, {1536, 576}};
    for (const ggml_type format : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0}) {
        for (const auto & [width, rows] : shapes) {
            const std::string what = std::string(ggml_type_name(format)) + " " + std::to_string(width) + " x " + std::to_string(rows);
            Row weights(width * rows);
            // Off zero, so that what Q4_1's minimum and the offsets add does not cancel.
            for (float & weight : weights) weight = normal(random) + 0.3f;
            std::vector<uint8_t> data(rows * ggml_row_size(format, width));
            ggml_quantize_chunk(format, weights.data(), data.data(), 0, rows, width, nullptr);
            if (format == GGML_TYPE_Q8_0) {
                // The least that eight bits hold, which no writer of files writes.
                for (size_t i = 2; i < data.size(); i += 34) data[i] = 0x80;
            }
            std::vector<float> decoded(width * rows);
            ggml_get_type_traits(format)->to_float(data.data(), decoded.data(), width * rows);

            const Matrix ours(lanes, format, width, rows, data), plain(ggml_backend_cpu_buffer_type(), format, width, rows, data);
            std::vector<Row> columns(37, Row(width));
            for (Row & column : columns) {
                for (float & value : column) value = normal(random) * 3;
            }
            columns[5].assign(width, 0.0f);
            std::vector<std::vector<double>> exact(columns.size(), std::vector<double>(rows));
            for (size_t c = 0; c < columns.size(); c++) {
                for (int64_t r = 0; r < rows; r++) {
                    for (int64_t i = 0; i < width; i++) exact[c][r] += static_cast<double>(decoded[r * width + i]) * columns[c][i];
                }
            }
            std::vector<Row> alone;
            for (const Row & column : columns) alone.push_back(ours.times(backend, {column}, 1)[0]);
            const double our_error = error(alone, exact), plain_error = error(plain.times(backend, columns, 1), exact);
            if (!(our_error < 0.008 && our_error < plain_error * 1.05)) {
                wrong(what + ": error " + std::to_string(our_error) + ", ggml's " + std::to_string(plain_error));
            }
            for (size_t n = 1; n <= columns.size(); n++) {
                for (const int threads : {1, 2, 3}) {
                    const auto together = ours.times(backend, {columns.begin(), columns.begin() + n}, threads);
                    for (size_t c = 0; c < n; c++) {
                        if (std::memcmp(together[c].data(), alone[c].data(), rows * sizeof(float)) != 0) {
                            wrong(what + ": column " + std::to_string(c) + " of " + std::to_string(n) + " with " + std::to_string(threads) + " threads has other bits");
                        }
                    }
                }
            }
            std::vector<int32_t> wanted = {static_cast<int32_t>(rows) - 1, 0, 0};
            for (int32_t r = 0; r < rows; r++) wanted.push_back(r);
            for (const int threads : {1, 3}) {
                const auto found = ours.rows(backend, wanted, threads);
                for (size_t i = 0; i < wanted.size(); i++) {
                    if (std::memcmp(found[i].data(), &decoded[wanted[i] * width], width * sizeof(float)) != 0) {
                        wrong(what + ": row " + std::to_string(wanted[i]) + " is not that of the file");
                    }
                }
            }
            std::printf("%s: error %.5f, ggml's %.5f\n", what.c_str(), our_error, plain_error);
        }
    }
    ggml_backend_free(backend);
}
