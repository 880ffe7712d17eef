// The host's std::terminate handler is the host's: ggml replaces it when it is loaded, and the library must not let that
// through. Opens the library itself, so that there is a moment before. argv[1]: the model, argv[2]: the library.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "../c/check.h"

namespace {

void hosts_own()
{
    std::abort();
}

// The function of this name, with the type that the header gives it.
template <class Function>
Function *find(void *library, const char *name)
{
    void *const found = dlsym(library, name);
    REQUIRE(found != nullptr, name);
    return reinterpret_cast<Function *>(found);
}

#define FIND(library, name) find<decltype(name)>(library, #name)

// From loading to stopping: handlers can be set late, by the first thing that is used.
void use(void *library, const char *model)
{
    const auto prepare = FIND(library, llamapen_prepare);
    const auto start = FIND(library, llamapen_supervisor_start);
    const auto submit = FIND(library, llamapen_submit);
    const auto next = FIND(library, llamapen_request_next);
    const auto request_free = FIND(library, llamapen_request_free);
    const auto supervisor_free = FIND(library, llamapen_supervisor_free);
    const auto engine_free = FIND(library, llamapen_engine_free);

    char *const config = check_config(model, ", \"n_ctx\": 512");
    static const char prompt[] = R"({"prompt": "Hello", "max_tokens": 2})";
    llamapen_engine *engine = nullptr;
    llamapen_supervisor *supervisor = nullptr;
    llamapen_request *request = nullptr;
    REQUIRE(prepare(config, std::strlen(config), &engine, nullptr) == LLAMAPEN_STATUS_OK, "the model is prepared");
    REQUIRE(start(engine, nullptr, 0, &supervisor, nullptr) == LLAMAPEN_STATUS_OK, "the supervisor starts");
    REQUIRE(submit(supervisor, prompt, sizeof prompt - 1, &request, nullptr) == LLAMAPEN_STATUS_OK, "the request is accepted");
    llamapen_event event{};
    event.struct_size = sizeof event;
    std::int32_t kind = 0;
    while (next(request, 120000, &event, nullptr) == LLAMAPEN_STATUS_EVENT) kind = event.kind;
    CHECK(kind == LLAMAPEN_EVENT_FINISHED, "the request finishes");
    request_free(request);
    supervisor_free(supervisor);
    engine_free(engine);
    std::free(config);
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s MODEL LIBRARY\n", argv[0]);
        return 2;
    }
    // Linked against the library, this program would measure nothing.
    REQUIRE(dlopen(argv[2], RTLD_NOW | RTLD_NOLOAD) == nullptr, "the library is not loaded yet");
    const std::terminate_handler before = std::get_terminate();
    void *const library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) std::printf("# %s\n", dlerror());
    REQUIRE(library != nullptr, "the library is loaded");
    CHECK(std::get_terminate() == before, "loading leaves the terminate handler alone");
    use(library, argv[1]);
    CHECK(std::get_terminate() == before, "using leaves the terminate handler alone");

    std::set_terminate(hosts_own);
    use(library, argv[1]);
    CHECK(std::get_terminate() == hosts_own, "the host's own handler stays, too");
    return check_end();
}
