//! Offloads in software.
pub mod toeplitz {
    //! The Toeplitz hash.
    /// Tables.
    #[derive(Debug)]
    pub struct Toeplitz;
    impl Toeplitz {
        /// Of a key.
        pub fn new(_: &[u8; 40]) -> Toeplitz {
            Toeplitz
        }
        /// Of a frame.
        pub fn hash_frame(&self, _: &[u8]) -> Option<u32> {
            None
        }
    }
}
