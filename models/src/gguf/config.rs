//! A file's metadata as a `config.json`.

use serde_json::{Map, Value, json};

use super::{
    Gguf, GgufError,
    rope::Scaling,
    tensors::{ROPE_FACTORS, place},
};

/// The largest size that a model may have.
const LARGEST: u64 = 1 << 24;

impl Gguf {
    /// The key of the architecture with this end.
    fn own(&self, key: &str) -> Result<String, GgufError> {
        Ok(format!("{}.{key}", self.architecture()?))
    }

    /// A size that is there.
    fn whole(&self, key: &str) -> Result<usize, GgufError> {
        let key = self.own(key)?;
        match self.optional(&key)? {
            Some(size) => Ok(size),
            None => Err(self.wrong(&key, &expected_size())),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<usize>, GgufError> {
        if !self.has(key) {
            return Ok(None);
        }
        let size = self.get(key).and_then(Value::as_u64);
        match size.filter(|size| (1..=LARGEST).contains(size)) {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.wrong(key, &expected_size())),
        }
    }

    /// A number, if it is there.
    fn number(
        &self,
        key: &str,
        fits: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<Option<f64>, GgufError> {
        if !self.has(key) {
            return Ok(None);
        }
        let number = self.get(key).and_then(Value::as_f64);
        match number.filter(|&number| fits(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, expected)),
        }
    }

    /// How many heads queries have, and keys and values.
    pub(super) fn heads(&self) -> Result<(usize, usize), GgufError> {
        let queries = self.whole("attention.head_count")?;
        let key = self.own("attention.head_count_kv")?;
        let keys = self.optional(&key)?.unwrap_or(queries);
        match queries.is_multiple_of(keys) {
            true => Ok((queries, keys)),
            false => Err(self.wrong(
                &key,
                &format!("a divisor of {queries}, the heads of queries"),
            )),
        }
    }

    /// What would be in `config.json`.
    ///
    /// # Errors
    /// Metadata that are missing, do not fit the tensors, or ask for what is not supported.
    pub fn config(&self) -> Result<Map<String, Value>, GgufError> {
        let architecture = self.architecture()?;
        let (queries, keys) = self.heads()?;
        let width = self.whole("embedding_length")?;
        let context = self.whole("context_length")?;
        let depth = self.depth(width, queries)?;
        self.check_windows(context)?;
        let epsilon = self.own("attention.layer_norm_rms_epsilon")?;
        let fraction = "a number from 0 to below 1";
        let Some(_) = self.number(&epsilon, |x| (0.0..1.0).contains(&x), fraction)? else {
            return Err(self.wrong(&epsilon, fraction));
        };
        let mut config = Map::new();
        let mut set = |field: &str, value: Value| drop(config.insert(field.into(), value));
        set("model_type", architecture.into());
        set("num_hidden_layers", self.layers()?.into());
        set("max_position_embeddings", context.into());
        set("hidden_size", width.into());
        set(
            "intermediate_size",
            self.whole("feed_forward_length")?.into(),
        );
        set("num_attention_heads", queries.into());
        set("num_key_value_heads", keys.into());
        set(
            "rms_norm_eps",
            self.get(&epsilon).cloned().unwrap_or_default(),
        );
        if self.has(&self.own("attention.key_length")?) {
            set("head_dim", depth.into());
        }
        let base = self.own("rope.freq_base")?;
        let theta = self.number(&base, |x| x > 0.0, "a number above 0")?;
        if theta.is_some() {
            set("rope_theta", self.get(&base).cloned().unwrap_or_default());
        }
        if let Some(scaling) = self.scaling(theta.unwrap_or(10_000.0), depth)? {
            set("rope_scaling", scaling);
        }
        let vocabulary = self.vocabulary()?;
        set("vocab_size", vocabulary.into());
        set(
            "tie_word_embeddings",
            self.shape("output.weight").is_none().into(),
        );
        let [attention, mlp] = self.biases()?;
        if attention && architecture == "llama" {
            set("attention_bias", true.into());
        }
        if mlp {
            set("mlp_bias", true.into());
        }
        for (field, value) in self.special_ids(vocabulary)? {
            set(field, value);
        }
        Ok(config)
    }

    /// The width of a head.
    fn depth(&self, width: usize, queries: usize) -> Result<usize, GgufError> {
        let key = self.own("attention.key_length")?;
        let depth = match self.optional(&key)? {
            Some(depth) => depth,
            None if width.is_multiple_of(queries) => width / queries,
            None => {
                let expected = format!("a divisor of {width}, the width");
                return Err(self.wrong(&self.own("attention.head_count")?, &expected));
            }
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            let key = self.own(key)?;
            if self.optional(&key)?.is_some_and(|size| size != depth) {
                let expected = format!("{depth}, the width of a head: others are not supported");
                return Err(self.wrong(&key, &expected));
            }
        }
        let key = self.own("attention.scale")?;
        let usual = 1.0 / (depth as f64).sqrt();
        let fits = |x: f64| x == 0.0 || (x - usual).abs() <= 1e-6 * usual;
        self.number(&key, fits, &format!("{usual}: others are not supported"))?;
        Ok(depth)
    }

    fn check_windows(&self, context: usize) -> Result<(), GgufError> {
        let key = self.own("attention.sliding_window")?;
        let fits = |window: f64| window == 0.0 || window >= context as f64;
        let expected = format!(
            "0 or at least the context's length, {context}: attention in windows is not supported"
        );
        self.number(&key, fits, &expected)?;
        let key = self.own("attention.causal")?;
        if self.has(&key) && self.get(&key) != Some(&true.into()) {
            return Err(self.wrong(&key, "true: other attention is not supported"));
        }
        Ok(())
    }

    /// How many layers there are tensors of, which is what the metadata say.
    fn layers(&self) -> Result<usize, GgufError> {
        let places = self
            .head
            .tensors
            .iter()
            .filter_map(|info| place(&info.name));
        let last = places.filter_map(|place| place.layer).max();
        let found = last.map_or(0, |last| last.saturating_add(1));
        match self.whole("block_count")? {
            layers if layers == found => Ok(layers),
            _ => Err(self.wrong(
                &self.own("block_count")?,
                &format!("{found}, the number of layers that the file has tensors of"),
            )),
        }
    }

    /// `rope_scaling`, if there is some.
    fn scaling(&self, theta: f64, depth: usize) -> Result<Option<Value>, GgufError> {
        let kind = self.own("rope.scaling.type")?;
        let named = match self.get(&kind).map(Value::as_str) {
            // Where no type is named, it is linear.
            None if !self.has(&kind) => "linear",
            Some(Some(name @ ("none" | "linear"))) => name,
            _ => return Err(self.wrong(&kind, "none or linear")),
        };
        let mut factor = None;
        for key in ["rope.scaling.factor", "rope.scale_linear"] {
            let key = self.own(key)?;
            let found = self.number(&key, |x| x >= 0.0, "a number above 0")?;
            factor = factor.or(found.filter(|&x| x != 0.0));
        }
        if named == "linear" && self.has(&kind) && factor.is_none() {
            return Err(self.wrong(&self.own("rope.scaling.factor")?, "a number above 0"));
        }
        let linear = factor.filter(|&x| named == "linear" && x != 1.0);
        let info = self
            .head
            .tensors
            .iter()
            .find(|info| info.name == ROPE_FACTORS);
        let scaling = match info {
            None => None,
            Some(info) => {
                let wrong =
                    |cause: String| self.damaged(format!("tensor `{ROPE_FACTORS}` {cause}"));
                let factors = self.array(info)?.into_floats();
                if factors.len() != depth / 2 {
                    let (found, expected) = (factors.len(), depth / 2);
                    return Err(wrong(format!("has {found} factors; expected {expected}")));
                }
                let scaling = Scaling::of(&factors, theta);
                let cause = "divides rotary angles otherwise than Llama 3 does, which is not \
                             supported; use the model's safetensors";
                scaling.ok_or_else(|| wrong(cause.into()))?
            }
        };
        match (linear, scaling) {
            (None, None) => Ok(None),
            (Some(factor), None) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            (None, Some(found)) => Ok(Some(json!({
                "rope_type": "llama3",
                "factor": found.factor,
                "low_freq_factor": found.low,
                "high_freq_factor": found.high,
                "original_max_position_embeddings": found.original,
            }))),
            (Some(_), Some(_)) => Err(self.wrong(
                &self.own("rope.scaling.factor")?,
                &format!("none beside the tensor `{ROPE_FACTORS}`"),
            )),
        }
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        let info = self.head.tensors.iter().find(|info| info.name == name)?;
        Some(&info.shape)
    }

    /// How many tokens have embeddings.
    fn vocabulary(&self) -> Result<usize, GgufError> {
        let Some([rows, _]) = self.shape("token_embd.weight") else {
            let found = self.shape("token_embd.weight");
            let found = found.map_or("is missing".into(), |shape| format!("has shape {shape:?}"));
            return Err(self.damaged(format!(
                "tensor `token_embd.weight` {found}; expected a row for each token"
            )));
        };
        let key = self.own("vocab_size")?;
        if self.optional(&key)?.is_some_and(|size| size != *rows) {
            return Err(self.wrong(&key, &format!("{rows}, the rows of `token_embd.weight`")));
        }
        Ok(*rows)
    }

    /// Whether projections of attentions and of the parts between them have biases: all of them or
    /// none, as configurations can say it.
    fn biases(&self) -> Result<[bool; 2], GgufError> {
        let qwen = self.architecture()? == "qwen2";
        let attention: &[&str] = match qwen {
            true => &["attn_q", "attn_k", "attn_v"],
            false => &["attn_q", "attn_k", "attn_v", "attn_output"],
        };
        let mlp: &[&str] = if qwen {
            &[]
        } else {
            &["ffn_gate", "ffn_up", "ffn_down"]
        };
        let places: Vec<_> = self
            .head
            .tensors
            .iter()
            .filter_map(|info| place(&info.name))
            .collect();
        let count = |module: &str| {
            places
                .iter()
                .filter(|p| p.bias && p.module == module)
                .count()
        };
        let layers = self.layers()?;
        let known = [attention, mlp].concat();
        let mut biased = places.iter().filter(|place| place.bias);
        if let Some(place) = biased.find(|place| !known.contains(&place.module)) {
            return Err(self.damaged(format!(
                "tensor `blk.{}.{}.bias` is a bias that models of this kind have not; use the \
                 model's safetensors",
                place.layer.unwrap_or(0),
                place.module
            )));
        }
        let whole = |modules: &[&str]| match modules.iter().map(|m| count(m)).sum::<usize>() {
            0 => Ok(false),
            found if found == layers * modules.len() => Ok(true),
            _ => Err(self.damaged(format!(
                "only some of the layers' {} have tensors `bias`; expected all or none",
                modules.join(", ")
            ))),
        };
        Ok([whole(attention)?, whole(mlp)?])
    }

    /// The ids of special tokens; every token that ends a text is an end.
    fn special_ids(&self, vocabulary: usize) -> Result<Vec<(&'static str, Value)>, GgufError> {
        let id = |key: &str| {
            let key = format!("tokenizer.ggml.{key}_token_id");
            if !self.has(&key) {
                return Ok(None);
            }
            let id = self.get(&key).and_then(Value::as_u64);
            match id.filter(|&id| id < vocabulary as u64) {
                Some(id) => Ok(Some(id)),
                None => Err(self.wrong(&key, &format!("a token from 0 to {}", vocabulary - 1))),
            }
        };
        let mut found = Vec::new();
        for (field, key) in [("pad_token_id", "padding"), ("bos_token_id", "bos")] {
            found.extend(id(key)?.map(|id| (field, id.into())));
        }
        id("unknown")?;
        let mut ends: Vec<u64> = Vec::new();
        for key in ["eos", "eot", "eom"] {
            let end = id(key)?;
            ends.extend(end.filter(|end| !ends.contains(end)));
        }
        match &ends[..] {
            [] => {}
            [end] => found.push(("eos_token_id", (*end).into())),
            _ => found.push(("eos_token_id", ends.into())),
        }
        Ok(found)
    }
}

fn expected_size() -> String {
    format!("a whole number from 1 to {LARGEST}")
}
