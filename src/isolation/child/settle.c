#define _GNU_SOURCE
#include "settle.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As on every architecture since Linux 5.9; older headers lack it. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* Two stay ignored: a host that goes away, and a file that may not grow (a snapshot, where the host has a limit), are errors of
 * a write. glibc keeps two for itself, and refuses them here. */
static void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* For kernels and filters without close_range. */
static void close_one_by_one(int first)
{
    DIR *open = opendir("/proc/self/fd");
    if (open) {
        for (struct dirent *entry; (entry = readdir(open));) {
            int fd = atoi(entry->d_name);
            if (fd >= first && fd != dirfd(open))
                close(fd);
        }
        closedir(open);
        return;
    }
    struct rlimit limit = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &limit);
    const int last = limit.rlim_cur < 1 << 20 ? (int)limit.rlim_cur : 1 << 20;
    for (int fd = first; fd < last; fd++)
        close(fd);
}

int lp_settle(pid_t host)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* Who died before that call sends no signal; its children have another parent by now. */
    if (getppid() != host)
        return 0;
    prctl(PR_SET_NAME, "llamapen-worker", 0, 0, 0);
    reset_signals();
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) != 0)
        close_one_by_one(STDERR_FILENO + 1);
    return 1;
}
