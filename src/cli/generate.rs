mod choice;
pub mod conversations;
pub mod writer;

use std::{path::PathBuf, process::ExitCode};

use ailora::models::{chat::Conversation, generate::Writer, task::Task};
use serde_json::json;

use self::{
    conversations::ChatArgs,
    writer::{Desk, TOGETHER, WriterArgs},
};
use super::{Error, print::out};

/// What is generated, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    writer: WriterArgs,
    /// Continue this text, or let an encoder-decoder read it; may be repeated. The answer to a single prompt
    /// is written as it is generated, those to several as one JSON object a line, with `prompt` and `text`.
    #[arg(long, value_name = "TEXT", required_unless_present = "messages")]
    prompt: Vec<String>,
    /// Put each prompt into the template of this task, and write as the task says, where flags do not.
    #[arg(long)]
    task: Option<String>,
    /// Put each prompt into the chat template, as a message of the user.
    #[arg(long, conflicts_with = "task")]
    chat: bool,
    /// Answer the conversations of this file: JSON or JSON lines, with `messages` or `conversations`, and
    /// maybe `tools`. Each answer is written as a line, with the `messages` and the `answer`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "task", "chat"])]
    messages: Option<PathBuf>,
    #[command(flatten)]
    chats: ChatArgs,
}

/// Writes what the model says behind each prompt.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let is_chat = args.chat || args.messages.is_some();
    if args.chats.is_given() && !is_chat {
        let text =
            "--chat-template, --date and --system are for conversations: add --chat or --messages";
        return Err(text.into());
    }
    let conversations = match &args.messages {
        Some(path) => Some(args.chats.read(path)?),
        None => None,
    };
    let task = args.task.as_deref().map(Task::parse).transpose()?;
    let task = task.as_ref().map(Task::evaluated);
    let task = task.as_deref();
    let mut desk = args.writer.open(task)?;
    if let Some(conversations) = conversations {
        answer(args, &mut desk, &conversations)?;
        return Ok(ExitCode::SUCCESS);
    }
    let ids = prompts(args, task, &mut desk.writer)?;
    if let [prompt] = &ids[..] {
        desk.show(prompt)?;
        out!("")?;
        return Ok(ExitCode::SUCCESS);
    }
    let written = desk.write(&ids)?;
    for (prompt, text) in args.prompt.iter().zip(&written) {
        out!("{}", json!({"prompt": prompt, "text": text}))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokens of the prompts, as their flags say to write them.
fn prompts(args: &Args, task: Option<&Task>, writer: &mut Writer) -> Result<Vec<Vec<i32>>, Error> {
    if args.chat {
        let conversation = |prompt: &String| {
            let mut conversation = args.chats.start();
            conversation.push("user", prompt);
            conversation.place = "--prompt".to_owned();
            conversation
        };
        let conversations: Vec<_> = args.prompt.iter().map(conversation).collect();
        return asked(args, writer, &conversations);
    }
    let encode = |prompt: &String| -> Result<Vec<i32>, Error> {
        let prompt = task.map_or(prompt.clone(), |task| task.prompt(prompt));
        let encoded = writer.tokenizer().encode(&prompt, None, usize::MAX)?;
        Ok(encoded.ids.into_iter().map(|id| id as i32).collect())
    };
    args.prompt.iter().map(encode).collect()
}

/// The tokens of conversations with the header of an answer.
fn asked(
    args: &Args,
    writer: &mut Writer,
    conversations: &[Conversation],
) -> Result<Vec<Vec<i32>>, Error> {
    let bound = args.chats.bind(&args.writer.source, writer)?;
    Ok(bound.prompts(conversations)?)
}

/// Writes the answers to conversations.
fn answer(args: &Args, desk: &mut Desk, conversations: &[Conversation]) -> Result<(), Error> {
    let prompts = asked(args, &mut desk.writer, conversations)?;
    for (conversations, prompts) in conversations.chunks(TOGETHER).zip(prompts.chunks(TOGETHER)) {
        let answers = desk.write(prompts)?;
        desk.behind(prompts.len());
        for (conversation, answer) in conversations.iter().zip(&answers) {
            out!(
                "{}",
                json!({"messages": conversation.messages, "answer": answer})
            )?;
        }
    }
    Ok(())
}
