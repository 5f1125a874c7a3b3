//! YAML to model.
