use std::fmt;

use egg::{Id, Language};

use super::{Draw, Name, Program, ProgramError, Real, Tensor, Type, ops};

/// What one kind of operation means: its result's type, its value and its derivative.
///
/// A new operation is a file in `ops` with an implementation of this, and a line in [`Op`].
pub trait Operation: fmt::Display {
    /// The type of the result.
    ///
    /// # Errors
    /// What the operation expects of its arguments' types, where they do not fit.
    fn infer(&self, args: &[&Type]) -> Result<Type, String>;

    /// The value in float64, straight from the definition.
    fn eval(&self, args: &[&Tensor], ty: &Type, draw: Draw) -> Tensor;

    /// The gradients towards the arguments in `wants`, given the gradient `dy` of the result `y`.
    ///
    /// Without a definition there is no derivative, as of derivatives themselves.
    ///
    /// # Errors
    /// A type error of the nodes it adds, or that the operation has no derivative.
    fn vjp(
        &self,
        _program: &mut Program,
        _y: Id,
        _args: &[Id],
        _dy: Id,
        _wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let op = self.to_string();
        Err(ProgramError::NotDifferentiable { op })
    }
}

/// A named parameter or input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leaf {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $op:ident($file:ident)),* $(,)?) => {
        /// An operation with its attributes, without its arguments.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op {
            /// A value given at each run.
            Input(Leaf),
            /// A parameter that is not trained.
            Frozen(Leaf),
            /// A parameter that is trained.
            Trained(Leaf),
            /// An array that stays where it is between runs, and that a program may put into.
            State(Leaf),
            /// A number.
            Const(Real),
            $($(#[$doc])* $op(ops::$file::$op),)*
        }

        $(impl From<ops::$file::$op> for Op {
            fn from(op: ops::$file::$op) -> Self {
                Self::$op(op)
            }
        })*

        impl Op {
            /// What the operation means; nothing for a leaf, which has no arguments.
            pub fn operation(&self) -> Option<&dyn Operation> {
                match self {
                    Self::Input(_)
                    | Self::Frozen(_)
                    | Self::Trained(_)
                    | Self::State(_)
                    | Self::Const(_) => None,
                    $(Self::$op(op) => Some(op),)*
                }
            }
        }
    };
}

operations! {
    /// One argument, element by element.
    Unary(elementwise),
    /// Two arguments that broadcast, element by element.
    Binary(elementwise),
    /// Random zeroing.
    Dropout(dropout),
    /// Matrix product.
    MatMul(matmul),
    /// Adapters added to the weights that they lie beside.
    Merge(merge),
    /// Lengths of the rows of a weight with adapters.
    RowLengths(row_lengths),
    /// Sum or maximum along axes.
    Reduce(reduce),
    /// The same elements under other dimensions.
    Reshape(view),
    /// Axes in another order.
    Permute(view),
    /// Repetition along axes of size 1.
    Expand(view),
    /// Another type of elements.
    Cast(cast),
    /// A range along one axis.
    Slice(view),
    /// Zeros around one axis.
    Pad(view),
    /// Tensors side by side.
    Concat(concat),
    /// Softmax along the last axis.
    Softmax(softmax),
    /// Its derivative.
    SoftmaxGrad(softmax),
    /// Zero mean and unit variance along the last axis.
    Normalize(normalize),
    /// Its derivative.
    NormalizeGrad(normalize),
    /// Rows of a table.
    Embedding(embedding),
    /// Its derivative towards the table.
    EmbeddingGrad(embedding),
    /// Elements of rows by id.
    TakeAlong(take_along),
    /// Its derivative.
    TakeAlongGrad(take_along),
    /// Scaled dot-product attention.
    Attention(attention),
    /// Its derivative.
    AttentionGrad(attention),
    /// Rotation by positions.
    Rotary(rotary),
    /// New places of a state.
    Put(cache),
    /// Attention to places of a cache.
    CachedAttention(cache),
    /// Mean cross-entropy of logits against class ids.
    CrossEntropy(loss),
    /// Its derivative towards the logits.
    CrossEntropyGrad(loss),
    /// Whether each label has the largest logit.
    Matches(loss),
    /// The largest numbers of rows.
    Top(top),
    /// The logarithm of each row's sum of exponentials.
    LogSumExp(top),
}

impl Op {
    /// Whether it is its argument's elements under another shape or type, or a range of them.
    pub fn is_view(&self) -> bool {
        matches!(self, Self::Reshape(_) | Self::Slice(_) | Self::Cast(_))
    }

    /// The type of a leaf.
    pub fn leaf_type(&self) -> Option<Type> {
        match self {
            Self::Input(leaf) | Self::Frozen(leaf) | Self::Trained(leaf) | Self::State(leaf) => {
                Some(leaf.ty.clone())
            }
            Self::Const(_) => Some(Type::f32([])),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(leaf) => write!(f, "input({})", leaf.name),
            Self::Frozen(leaf) => write!(f, "frozen({})", leaf.name),
            Self::Trained(leaf) => write!(f, "trained({})", leaf.name),
            Self::State(leaf) => write!(f, "state({})", leaf.name),
            Self::Const(value) => write!(f, "{value}"),
            other => match other.operation() {
                Some(operation) => operation.fmt(f),
                None => Ok(()),
            },
        }
    }
}

/// An operation and its arguments: an e-node of [`egg`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Its arguments.
    pub args: Vec<Id>,
}

impl Language for Node {
    type Discriminant = Op;

    fn discriminant(&self) -> Op {
        self.op.clone()
    }

    fn matches(&self, other: &Self) -> bool {
        self.op == other.op && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.op.fmt(f)
    }
}
