//! The same work without accounting; started by `account`.

mod work;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let times = std::env::args().find_map(|text| text.parse().ok());
    println!("{}", work::run(times.unwrap_or(1)).as_nanos());
}
