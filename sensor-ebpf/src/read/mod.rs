//! Bounded reads of kernel and user memory.
//!
//! In: addresses that may be stale or null. Out: values, or zero with a fault remembered. Never a direct load through a
//! kernel pointer: one rule everywhere, and every failure is counted.

pub(crate) mod call;
pub(crate) mod path;
pub(crate) mod task;

use core::mem::MaybeUninit;

/// Kernel helpers by number, with 64-bit lengths: the narrower signatures of the bindings put two shifts between a bound
/// and the call, and old verifiers lose it there.
pub(crate) mod helper {
    use aya_ebpf::cty::c_void;

    macro_rules! helpers {
        ($($(#[$doc:meta])* $name:ident = $number:literal ($($arg:ident: $ty:ty),*);)*) => {
            $($(#[$doc])*
            #[inline(always)]
            pub(crate) unsafe fn $name($($arg: $ty),*) -> i64 {
                // SAFETY: a call to address N is the kernel's way to name helper N; the types are that helper's.
                unsafe {
                    let call: unsafe extern "C" fn($($ty),*) -> i64 =
                        core::mem::transmute::<usize, _>($number);
                    call($($arg),*)
                }
            })*
        };
    }

    helpers! {
        /// 0, or a negative error with the destination zeroed.
        probe_read_user = 112 (to: *mut c_void, len: u64, from: u64);
        /// 0, or a negative error with the destination zeroed.
        probe_read_kernel = 113 (to: *mut c_void, len: u64, from: u64);
        /// Bytes written, terminating NUL included, or a negative error.
        probe_read_user_str = 114 (to: *mut c_void, len: u64, from: u64);
        /// Bytes written, terminating NUL included, or a negative error.
        probe_read_kernel_str = 115 (to: *mut c_void, len: u64, from: u64);
        /// 0, or a negative error when the ring is full.
        ringbuf_output = 130 (ring: *mut c_void, from: *mut c_void, len: u64, flags: u64);
        /// What the flags ask of a ring; 0 is the bytes nobody has read yet.
        ringbuf_query = 134 (ring: *mut c_void, flags: u64);
        /// Bytes written, terminating NUL included, or a negative error.
        d_path = 147 (path: *const c_void, to: *mut c_void, len: u64);
    }
}

/// The value, or `MAX` when it is larger. Opaque to the compiler, which would else check one copy of a register and pass
/// another; the verifier sees the bound.
#[inline(always)]
pub(crate) fn clamp<const MAX: u64>(mut value: u64) -> u64 {
    const { assert!(MAX < i32::MAX as u64) };
    // SAFETY: touches nothing but its own register.
    unsafe {
        core::arch::asm!(
            "if {value} <= {max} goto +1",
            "{value} = {max}",
            value = inout(reg) value,
            max = const MAX,
            options(pure, nomem, nostack),
        );
    }
    value
}

/// Hides where a value came from, so that the compiler can neither reorder nor merge what depends on it.
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// The value of an argument slot. Keeps the compiler from merging the accesses of two branches into one at a slot that is
/// computed, which the verifier refuses.
#[inline(always)]
pub(crate) fn distinct<const SLOT: u32>(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {1} {0} */", inout(reg) value, const SLOT, options(pure, nomem, nostack));
    }
    value
}

/// Non-zero once any read failed. Kept as an accumulated status instead of a branch per read, which would double what the
/// verifier has to walk.
#[derive(Clone, Copy)]
pub(crate) struct Faults(pub(crate) i64);

impl Faults {
    pub(crate) const NONE: Faults = Faults(0);

    /// Reads a `T` at `base + offset` in kernel memory; zero when it can not be read.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(&mut self, base: u64, offset: u64) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value`, zeroes on failure. `T` is only ever an integer or an array of them.
        unsafe {
            self.0 |= helper::probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u64,
                base.wrapping_add(offset),
            );
            value.assume_init()
        }
    }

    /// Reads a `T` at `base + offset` in user memory; zero when it can not be read.
    #[inline(always)]
    pub(crate) fn read_user<T: Copy>(&mut self, base: u64, offset: u64) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: as for `read`.
        unsafe {
            self.0 |= helper::probe_read_user(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u64,
                base.wrapping_add(offset),
            );
            value.assume_init()
        }
    }

    /// Reads a pointer.
    #[inline(always)]
    pub(crate) fn pointer(&mut self, base: u64, offset: u64) -> u64 {
        self.read::<u64>(base, offset)
    }

    /// The address itself as a number to compute with: the verifier forbids arithmetic on what it knows to be a pointer, and
    /// forgets that it is one when a helper copies it.
    #[inline(always)]
    pub(crate) fn number(&mut self, address: u64) -> u64 {
        let held = MaybeUninit::new(address);
        self.read::<u64>(held.as_ptr() as u64, 0)
    }

    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.0 != 0
    }
}
