/* fake_main.c - `malmend serve` over the fake engine: malmend-fake serve ... */
#include "daemon/command/commands.h"

int main(int argc, char **argv) {
    return mal_cmd_serve(argc - 1, argv + 1);
}
