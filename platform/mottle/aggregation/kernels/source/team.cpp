// Several threads of the pool that torch computes with. It waits for the next work in a loop for some milliseconds: threads beside it would have
// to share the cores with it.

extern "C" void team(int size, void (*work)()) {
#pragma omp parallel num_threads(size)
    work();
}
