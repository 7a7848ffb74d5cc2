use std::fmt;

use super::Site;

/// What a projection is for in a transformer's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Queries of an attention.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The projection of what an attention puts out.
    O,
    /// The gate of a gated feed-forward block.
    Gate,
    /// The first projection of a feed-forward block.
    Up,
    /// The last projection of a feed-forward block.
    Down,
}

/// How the paths of projections end, as the models on the hub call them.
const ENDS: &[(Role, &[&str])] = &[
    (Role::Q, &["q", "query", "q_proj", "query_proj"]),
    (Role::K, &["k", "key", "k_proj", "key_proj"]),
    (Role::V, &["v", "value", "v_proj", "value_proj"]),
    (
        Role::O,
        &[
            "o",
            "o_proj",
            "attention.output.dense",
            "self_attn.out_proj",
            "encoder_attn.out_proj",
        ],
    ),
    (Role::Gate, &["gate", "gate_proj"]),
    (Role::Up, &["up", "up_proj", "fc1", "intermediate.dense"]),
    (Role::Down, &["down", "down_proj", "fc2", "output.dense"]),
];

impl Role {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// What the projection of a path is for, by how that ends: the first role that knows the end.
    pub fn of(path: &str) -> Option<Self> {
        let is_end = |end: &&str| {
            let rest = path.strip_suffix(end);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let found = ENDS.iter().find(|(_, ends)| ends.iter().any(is_end));
        found.map(|(role, _)| *role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Site {
    /// What the projection is for, by its path.
    pub fn role(&self) -> Option<Role> {
        Role::of(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdapterSpec, adapter::Layout};

    #[test]
    fn paths_of_the_hub_have_roles() {
        let role = |path: &str| {
            let site = Site {
                path: path.into(),
                weight: format!("{path}.weight"),
                bias: None,
                in_features: 2,
                out_features: 2,
                layout: Layout::OutIn,
                spec: AdapterSpec::frozen(),
            };
            site.role()
        };
        for (path, expected) in [
            ("bert.encoder.layer.0.attention.self.query", Some(Role::Q)),
            ("bert.encoder.layer.0.attention.output.dense", Some(Role::O)),
            ("bert.encoder.layer.0.intermediate.dense", Some(Role::Up)),
            ("bert.encoder.layer.0.output.dense", Some(Role::Down)),
            ("model.layers.3.self_attn.v_proj", Some(Role::V)),
            ("model.layers.3.mlp.gate_proj", Some(Role::Gate)),
            (
                "model.decoder.layers.1.encoder_attn.out_proj",
                Some(Role::O),
            ),
            ("model.decoder.layers.1.fc2", Some(Role::Down)),
            (
                "deberta.encoder.layer.1.attention.self.key_proj",
                Some(Role::K),
            ),
            ("q", Some(Role::Q)),
            ("classifier.out_proj", None),
            ("classifier.dense", None),
            ("bert.pooler.dense", None),
            ("lm_head", None),
            ("my_query", None),
        ] {
            assert_eq!(role(path), expected, "{path}");
        }
    }
}
