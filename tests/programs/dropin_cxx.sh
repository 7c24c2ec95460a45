#!/bin/sh
# C++ over the drop-in: static constructors, exceptions, thread-local destructors, atexit, dlopen and dlclose of a C++ library.
# shellcheck source=tests/programs/dropin_lib.sh
. "$(dirname "$0")/dropin_lib.sh"
skip_without g++

cat >"$work/plugin.cc" <<'C'
#include <map>
#include <string>
#include <vector>
static std::map<int, std::string> *made_at_load = new std::map<int, std::string>;
struct Owner {
	std::vector<std::string> strings = std::vector<std::string>(1000, "a string that is too long for its own storage");
	~Owner() { delete made_at_load; }
};
static Owner owner;
thread_local std::vector<int> per_thread(100, 7);
extern "C" int plugin_work(int n)
{
	for (int i = 0; i < n; i++)
		(*made_at_load)[i] = std::string((size_t)i % 500, 'x');
	try {
		if (per_thread.size() != 100)
			return -1;
		throw std::string("an exception needs memory too");
	} catch (const std::string &s) {
		return (int)(made_at_load->size() + s.size());
	}
}
C
cat >"$work/main.cc" <<'C'
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>
static std::vector<std::string> before_main(100, std::string(100, 'b'));
struct alignas(256) Wide { char bytes[256]; };
static void at_exit()
{
	auto later = std::make_unique<std::vector<int>>(10000, 3);
	std::printf("at exit %zu\n", later->size());
}
int main(int, char **argv)
{
	std::atexit(at_exit);
	for (int round = 0; round < 20; round++) {
		void *plugin = dlopen(argv[1], RTLD_NOW);
		if (!plugin) {
			std::printf("%s\n", dlerror());
			return 1;
		}
		auto work = reinterpret_cast<int (*)(int)>(dlsym(plugin, "plugin_work"));
		int sum = 0;
		std::vector<std::thread> threads;
		sum += work(100 + round);
		threads.emplace_back([&] { sum += work(100); });
		threads[0].join();
		std::printf("%d\n", sum);
		dlclose(plugin);
	}
	auto wide = std::make_unique<Wide[]>(5);
	std::printf("aligned %d\n", (int)(reinterpret_cast<size_t>(wide.get()) % 256));
	try {
		std::vector<char> impossible((size_t)1 << 46);
		std::printf("impossible\n");
	} catch (const std::bad_alloc &) {
		std::printf("bad_alloc\n");
	}
	std::printf("nothrow %p\n", (void *)new (std::nothrow) char[(size_t)1 << 46]);
	std::vector<std::thread> many;
	for (int i = 0; i < 32; i++)
		many.emplace_back([] { for (int j = 0; j < 1000; j++) std::string s((size_t)j, 'c'); });
	for (auto &t : many)
		t.join();
	std::printf("%zu\n", before_main.size());
}
C
g++ -O1 -shared -fPIC -o "$work/plugin.so" "$work/plugin.cc"
g++ -O1 -o "$work/main" "$work/main.cc" -pthread -ldl
same "$work/main" "$work/plugin.so"
# The operators of a library that is loaded late are bound to ours too.
grep -q bad_alloc "$work/ours.out" || fail "no bad_alloc"
echo "as without Holdfast"
