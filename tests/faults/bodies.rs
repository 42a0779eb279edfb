//! Bodies: cut, wrong, endless, slow, wanted by many.
