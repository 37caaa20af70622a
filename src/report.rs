//! What people should know: findings and documents.

pub mod finding;
