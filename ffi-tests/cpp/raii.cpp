// The C interface under C++ ownership: unique_ptr is all it needs. argv[1]: the model.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../c/check.h"

namespace {

template <auto Free>
struct Deleter {
    template <class T>
    void operator()(T *object) const { Free(object); }
};

using Error = std::unique_ptr<llamapen_error, Deleter<llamapen_error_free>>;
using Engine = std::unique_ptr<llamapen_engine, Deleter<llamapen_engine_free>>;
using Supervisor = std::unique_ptr<llamapen_supervisor, Deleter<llamapen_supervisor_free>>;
using Request = std::unique_ptr<llamapen_request, Deleter<llamapen_request_free>>;
using Text = std::unique_ptr<char, Deleter<llamapen_string_free>>;

class Failure : public std::runtime_error {
public:
    explicit Failure(const llamapen_error *error)
        : std::runtime_error(llamapen_error_message(error)), status(llamapen_error_status(error)) {}
    const std::int32_t status;
};

// Calls a function whose last parameter is the error, and throws it.
template <class Function, class... Arguments>
std::int32_t call(Function function, Arguments... arguments)
{
    llamapen_error *raw = nullptr;
    const std::int32_t status = function(arguments..., &raw);
    const Error error(raw);
    if (error) throw Failure(error.get());
    return status;
}

Engine prepare(const std::string &config)
{
    llamapen_engine *engine = nullptr;
    call(llamapen_prepare, config.data(), config.size(), &engine);
    return Engine(engine);
}

Engine prepare_model(const char *path)
{
    const std::unique_ptr<char, decltype(&std::free)> config(check_config(path, ", \"n_ctx\": 512"), std::free);
    return prepare(config.get());
}

Supervisor start(const Engine &engine)
{
    llamapen_supervisor *supervisor = nullptr;
    call(llamapen_supervisor_start, engine.get(), static_cast<const char *>(nullptr), std::size_t{0}, &supervisor);
    return Supervisor(supervisor);
}

Request submit(const Supervisor &supervisor, const std::string &json)
{
    llamapen_request *request = nullptr;
    call(llamapen_submit, supervisor.get(), json.data(), json.size(), &request);
    return Request(request);
}

struct Piece {
    std::int32_t kind;
    std::string text;
};

std::vector<Piece> pieces(const Request &request)
{
    std::vector<Piece> all;
    llamapen_event event{};
    event.struct_size = sizeof event;
    while (call(llamapen_request_next, request.get(), std::int64_t{120000}, &event) == LLAMAPEN_STATUS_EVENT)
        all.push_back({event.kind, std::string(event.text_len > 0 ? event.text : "", event.text_len)});
    return all;
}

void chat(const char *model)
{
    Supervisor supervisor;
    {
        const Engine engine = prepare_model(model);
        Supervisor started = start(engine);
        supervisor = std::move(started);
    }
    const Request request = submit(
        supervisor,
        R"({"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 32, "temperature": 0})");
    std::string answer;
    std::int32_t last = 0;
    for (const Piece &piece : pieces(request)) {
        answer += piece.text;
        last = piece.kind;
    }
    std::printf("# %s\n", answer.substr(0, answer.find('\n')).c_str());
    CHECK(answer.find("Paris") != std::string::npos, "the answer is right");
    CHECK(last == LLAMAPEN_EVENT_FINISHED, "the last event is FINISHED");

    char *raw = nullptr;
    call(llamapen_supervisor_health_json, supervisor.get(), &raw);
    const Text health(raw);
    CHECK(std::string(health.get()).find("\"READY\"") != std::string::npos, "the supervisor is ready");
}

// A lambda is a callback; its state travels as `user`.
void deciding(const char *model)
{
    char *raw = nullptr;
    const std::unique_ptr<char, decltype(&std::free)> config(check_config(model, ", \"n_ctx\": 512"), std::free);
    call(llamapen_plan, config.get(), std::strlen(config.get()), static_cast<const char *>(nullptr), std::size_t{0},
         static_cast<char **>(nullptr), &raw);
    const Text plan(raw);
    CHECK(std::string(plan.get()).find("load_weights") != std::string::npos, "a plan for people");

    std::uint64_t seen = 0;
    const llamapen_progress count = [](std::uint64_t done_bytes, std::uint64_t, void *user) -> std::int32_t {
        return (*static_cast<std::uint64_t *>(user) = done_bytes) > 0;
    };
    std::int32_t status = LLAMAPEN_STATUS_OK;
    try {
        call(llamapen_digest, model, std::strlen(model), count, static_cast<void *>(&seen), &raw);
    } catch (const Failure &failure) {
        status = failure.status;
    }
    CHECK(status == LLAMAPEN_STATUS_CANCELLED && seen > 0 && raw == nullptr, "a lambda ends a digest");
}

void errors_become_exceptions()
{
    bool thrown = false;
    try {
        prepare(R"({"model": "no/such/file.gguf"})");
    } catch (const Failure &failure) {
        thrown = failure.status == LLAMAPEN_STATUS_MODEL_NOT_FOUND &&
                 std::string(failure.what()).find("no/such/file.gguf") != std::string::npos;
    }
    CHECK(thrown, "an error becomes an exception with status and message");
}

void unwinding(const char *model)
{
    const int threads = check_entries("/proc/self/task");
    bool caught = false;
    const auto begun = std::chrono::steady_clock::now();
    try {
        const Engine engine = prepare_model(model);
        const Supervisor supervisor = start(engine);
        const Request request = submit(supervisor, R"({"prompt": "Once upon a time", "ignore_eos": true})");
        llamapen_event event{};
        event.struct_size = sizeof event;
        while (event.kind != LLAMAPEN_EVENT_TOKEN)
            if (call(llamapen_request_next, request.get(), std::int64_t{120000}, &event) != LLAMAPEN_STATUS_EVENT) break;
        if (event.kind == LLAMAPEN_EVENT_TOKEN) throw std::runtime_error("the host's own trouble");
    } catch (const std::runtime_error &trouble) {
        caught = std::string(trouble.what()) == "the host's own trouble";
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    std::printf("# %.2f s\n", took.count());
    CHECK(caught, "an exception passes through a running request");
    CHECK(check_threads(threads) == threads, "unwinding stops the supervisor");
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    try {
        chat(argv[1]);
        deciding(argv[1]);
        errors_become_exceptions();
        unwinding(argv[1]);
    } catch (const std::exception &problem) {
        std::printf("# %s\n", problem.what());
        CHECK(false, "no other exception");
    }
    return check_end();
}
