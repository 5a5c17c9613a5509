// What a driver hands to the common layer can move to another thread (contract Q2).

struct Local(std::rc::Rc<u8>);

impl anyport::driver::TxDriver for Local {
    fn send(
        &mut self,
        _: &mut anyport::Burst,
        _: usize,
        _: &mut [anyport::PoolCache],
    ) -> anyport::Result<()> {
        Ok(())
    }
}

fn main() {}
