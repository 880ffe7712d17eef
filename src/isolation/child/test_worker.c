/* A library that tests.rs has the embedded launcher load: says that it is there, then waits for the end of its socket. */
#include <stdio.h>
#include <unistd.h>

__attribute__((visibility("default"))) int llamapen_worker_main(void)
{
    char byte = 'r';
    fputs("the worker runs\n", stderr);
    if (write(STDIN_FILENO, &byte, 1) != 1)
        return 1;
    while (read(STDIN_FILENO, &byte, 1) == 1)
        continue;
    return 7;
}
