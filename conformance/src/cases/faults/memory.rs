//! F7: huge pages that are not there, or fewer than asked for.
//!
//! What the machine has is its own affair: the cases reserve (and do not touch) the free huge pages for the moment, so
//! that it has none, or just one, whatever it has.

use std::ptr::NonNull;

use anyport::Pool;
use anyport::pool::HugePages;

use crate::case::{Case, Failure, Need, Verdict, refusal, tells};
use crate::ctx::{Ctx, End, eventually};
use crate::own::descriptors;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.no_huge_pages",
        clauses: &["F7"],
        about: "Makes a pool on a machine without a free huge page, writes to every byte of it, and passes traffic.",
        why: "Most machines have none, and a program that dies of SIGBUS says nothing to anybody.",
        needs: &[Need::TwoWay],
        run: no_huge_pages,
    },
    Case {
        name: "faults.too_few_huge_pages",
        clauses: &["F7"],
        about: "The same where there is one huge page less than the pool takes.",
        why: "The mapping succeeds then, and the first touch of the last page kills the process.",
        needs: &[Need::TwoWay],
        run: too_few_huge_pages,
    },
    Case {
        name: "faults.required_huge_pages_are_explained",
        clauses: &["F7"],
        about: "Requires huge pages that are not there: the error says how many, and the command that reserves them.",
        why: "Who requires them wants to know what to do, not that memory is short.",
        needs: &[],
        run: required_huge_pages,
    },
    Case {
        name: "faults.huge_pages_can_be_off",
        clauses: &["F7"],
        about: "Makes pools of all sizes without huge pages.",
        why: "Huge pages that are reserved for others are not ours to take.",
        needs: &[],
        run: huge_pages_off,
    },
];

const HUGE: usize = 2 << 20;

/// Huge pages that nobody else can have for now.
struct Reserved {
    at: NonNull<libc::c_void>,
    length: usize,
}

impl Reserved {
    /// Reserves all free huge pages of 2 MiB but `leave` of them; `None` if there are not more.
    fn all_but(leave: usize) -> Verdict<Option<Reserved>> {
        let read = |name: &str| -> Verdict<usize> {
            let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
            // A kernel without huge pages has no such file.
            let text = std::fs::read_to_string(path).unwrap_or_else(|_| "0".into());
            text.trim().parse().map_err(|_| Failure(format!("{name} is `{text}`")))
        };
        let free = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
        let length = free.saturating_sub(leave) * HUGE;
        if length == 0 {
            return Ok(None);
        }
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, never touched.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        match NonNull::new(at).filter(|_| at != libc::MAP_FAILED) {
            Some(at) => Ok(Some(Reserved { at, length })),
            None => Err(std::io::Error::last_os_error().into()),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the mapping of `all_but`, to which no reference exists.
        unsafe { libc::munmap(self.at.as_ptr(), self.length) };
    }
}

/// A pool of that many huge pages, or of as much normal memory.
fn pool_of(pages: usize, huge: HugePages) -> anyport::Result<Pool> {
    let frames = u32::try_from(pages * HUGE / 2048).unwrap_or(u32::MAX);
    Pool::builder().frames(frames).huge_pages(huge).build()
}

/// Writes to all frames of a pool, to every byte that an application can reach, and reads it again.
fn touch_all(pool: &Pool) -> Verdict {
    let mut all: Vec<_> = std::iter::from_fn(|| pool.take()).take(pool.capacity() + 1).collect();
    same!(all.len(), pool.capacity(), "frames of a new pool");
    for (number, packet) in all.iter_mut().enumerate() {
        let headroom = packet.headroom();
        packet.grow_head(headroom)?;
        packet.set_len(pool.frame_size())?;
        packet.data_mut().fill(number as u8);
    }
    let kept = |(number, packet): (usize, &anyport::Packet)| {
        packet.data().iter().all(|byte| *byte == number as u8)
    };
    ensure!(all.iter().enumerate().all(kept), "the pool's memory does not keep what is written");
    Ok(())
}

fn works(ctx: &Ctx, pool: &Pool) -> Verdict {
    touch_all(pool)?;
    let mut a = ctx.start_with(End::A, "", pool)?;
    let mut b = ctx.start_with(End::B, "", pool)?;
    ctx.settle(&a, &b)?;
    let frames = frames::run(b.mac(), 100, 200);
    ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
    a.close()?;
    b.close()
}

fn no_huge_pages(ctx: &Ctx) -> Verdict {
    let _reserved = Reserved::all_but(0)?;
    let pool = pool_of(2, HugePages::Auto)?;
    same!((pool.on_huge_pages(), pool.capacity()), (false, 2048), "huge pages, and frames");
    works(ctx, &pool)
}

fn too_few_huge_pages(ctx: &Ctx) -> Verdict {
    // On a machine that has none at all this is the case above.
    let _reserved = Reserved::all_but(1)?;
    for _ in 0..2 {
        let pool = pool_of(2, HugePages::Auto)?;
        same!((pool.on_huge_pages(), pool.capacity()), (false, 2048), "huge pages, and frames");
        works(ctx, &pool)?;
    }
    Ok(())
}

fn required_huge_pages(_: &Ctx) -> Verdict {
    let _reserved = Reserved::all_but(0)?;
    let before = descriptors()?;
    for pages in [1, 3] {
        for _ in 0..20 {
            let error = refusal(pool_of(pages, HugePages::Required), "a pool on huge pages")?;
            ensure!(matches!(error, anyport::Error::Pool { .. }), "{error}");
            tells(&error, &[&format!("{pages} huge pages"), "sysctl -w vm.nr_hugepages="])?;
        }
    }
    eventually("descriptors of the pools that were not made to go", || {
        Ok((descriptors()? <= before).then_some(()))
    })
}

fn huge_pages_off(_: &Ctx) -> Verdict {
    for (frames, size) in [(1, 512), (7, 2048), (300, 4096), (65, 32768)] {
        let builder = Pool::builder().frames(frames).frame_size(size).huge_pages(HugePages::Off);
        let pool = builder.build()?;
        same!(pool.on_huge_pages(), false, "huge pages");
        touch_all(&pool)?;
    }
    Ok(())
}
