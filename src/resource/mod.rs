//! What people write: typed objects with positions, and their lowering into the model.
