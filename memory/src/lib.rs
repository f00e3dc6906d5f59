//! What is set at the start, so that the process stays small. It must be set before any other thread is started.
//!
//! *glibc's allocator*, left alone, has up to eight arenas a core, each of which keeps what its threads freed, and after the first large
//! buffer is freed it takes such buffers from the heap too, where one small neighbour keeps megabytes from the system. A daemon whose
//! buffers of a few megabytes come and go in other threads than they were made in holds a third more than it uses then (measured: 70 MiB
//! instead of 52 for a MySQL stream, 62 instead of 40 for a PostgreSQL sink). Other allocators ignore it.
//!
//! *`mysql_async`* keeps up to 128 buffers of packets and takes the oldest first, so that in time each of them has held a packet of the
//! largest size. Its only setting is a variable of the environment (measured with a MySQL sink: 76 MiB with 128, 42 with 8).
//!
//! The two `unsafe` blocks are a call of C with numbers, and setting that variable, at a time when no other thread is there that could
//! allocate, or read the environment.

/// Arenas: contention is low, since buffers are large and few.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;
/// Buffers from this size on are mapped, and unmapped when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 512 << 10;
/// What is free at the end of the heap beyond this is given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 1 << 20;

/// Packet buffers that `mysql_async` keeps: a connection uses two or three at a time.
const PACKET_BUFFERS: (&str, &str) = ("MYSQL_ASYNC_BUFFER_POOL_CAP", "8");

/// To be called once, before any other thread is started. What is in the environment already counts.
pub fn keep_small() {
    tell_allocator();
    let (name, buffers) = PACKET_BUFFERS;
    if std::env::var_os(name).is_none() {
        #[expect(unsafe_code, reason = "a variable of the environment has no other form")]
        // SAFETY: no other thread is there yet that could read the environment meanwhile.
        unsafe {
            std::env::set_var(name, buffers);
        }
    }
}

fn tell_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "mallopt has no safe form")]
    // SAFETY: `mallopt` takes two numbers and keeps no reference; no other thread allocates meanwhile. What it does not know it
    // refuses, and then all stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}
