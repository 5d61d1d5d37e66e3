crate::tests!();
