// C++ that leans on its runtime: exceptions through frames and threads, streams, containers, futures, thread_local, file system.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static thread_local int own = 1;

struct Noisy {
	~Noisy() { std::cout << "unwound\n"; }
};

static int deep(int n)
{
	Noisy noisy;
	if (n == 0)
		throw std::runtime_error("from the deep");
	return deep(n - 1) + 1;
}

int main()
{
	try {
		deep(3);
	} catch (const std::exception &error) {
		std::cout << error.what() << "\n";
	}
	std::vector<std::future<int>> futures;
	for (int i = 0; i < 8; i++)
		futures.push_back(std::async(std::launch::async, [i] {
			own += i;
			if (i == 7)
				throw std::out_of_range("seven");
			return own;
		}));
	for (auto &future : futures)
		try {
			std::cout << future.get() << " ";
		} catch (const std::out_of_range &error) {
			std::cout << error.what() << "\n";
		}
	std::mutex mutex;
	std::condition_variable changed;
	int turn = 0;
	std::vector<std::thread> threads;
	for (int i = 0; i < 6; i++)
		threads.emplace_back([&, i] {
			std::unique_lock lock(mutex);
			changed.wait(lock, [&] { return turn == i; });
			std::cout << i << ",";
			turn++;
			changed.notify_all();
		});
	for (auto &thread : threads)
		thread.join();
	std::map<std::string, int> words{{"b", 2}, {"a", 1}};
	for (const auto &[word, count] : words)
		std::cout << word << count;
	std::filesystem::create_directories("made/deep");
	std::ofstream("made/deep/file") << "text " << 3.25;
	for (const auto &entry : std::filesystem::recursive_directory_iterator("made"))
		std::cout << " " << entry.path().filename().string();
	std::string content;
	std::getline(std::ifstream("made/deep/file"), content);
	std::cout << "\n" << content << "\n";
	std::vector<int> numbers(100000);
	std::iota(numbers.begin(), numbers.end(), 0);
	std::cout << std::accumulate(numbers.begin(), numbers.end(), 0LL) << " " << std::filesystem::file_size("made/deep/file") << "\n";
	auto started = std::chrono::steady_clock::now();
	std::this_thread::sleep_for(std::chrono::milliseconds(20));
	std::cout << (std::chrono::steady_clock::now() - started >= std::chrono::milliseconds(20)) << std::endl;
	throw std::logic_error("nobody catches this");
}
