//! Loops compiled for the widest vectors of the processor they run on.

/// Defines a function whose body is compiled once for every vector width, and that runs the widest
/// one this processor has (AVX-512, AVX2 with FMA or plain on x86-64; NEON on aarch64).
///
/// ```ignore
/// kernel! {
///     /// y += alpha x.
///     fn axpy(y: &mut [f32], alpha: f32, x: &[f32]) {
///         ...
///     }
/// }
/// ```
///
/// Everything that the body calls must be `#[inline(always)]`, as the element functions in `math.rs`
/// are, or a kernel itself: the compiler takes what it does not inline for a function of the oldest
/// processor, in which `mul_add` is a call. That may befall any closure (of `for_each`, say) and any
/// function passed as an argument: write `for` loops, and take an enum instead of a function. The
/// closure made here carries the attribute, and its arguments stay function arguments, so that the
/// compiler knows that `&mut` slices do not overlap the others. One call costs a few nanoseconds:
/// loop inside, over rows too.
#[macro_export]
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $out)? $body
            $crate::kernels::dispatch(#[inline(always)] move || body($($arg),*))
        }
    };
}
pub(crate) use kernel;

/// What [`kernel!`] expands to; not to be called with any other closure.
#[inline]
pub(crate) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    struct Op<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Op<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Op(f))
}
