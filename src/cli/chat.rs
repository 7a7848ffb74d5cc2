use std::{
    io::{self, BufRead, IsTerminal},
    process::ExitCode,
};

use super::{
    Error,
    generate::{conversations::ChatArgs, writer::WriterArgs},
    print::{self, out, say},
};

/// With whom one chats, and how it answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    writer: WriterArgs,
    #[command(flatten)]
    chats: ChatArgs,
}

/// Answers the lines of standard input, each with all that was said before.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut desk = args.writer.open(None)?;
    let bound = args.chats.bind(&args.writer.source, &mut desk.writer)?;
    let is_terminal = io::stdin().is_terminal();
    let ask = || {
        if is_terminal {
            print::stderr(format_args!("> "));
        }
    };
    if is_terminal {
        say!("/reset begins again, /exit ends");
    }
    let mut conversation = args.chats.start();
    conversation.place = "the conversation".to_owned();
    ask();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => conversation.messages = args.chats.start().messages,
            text => {
                conversation.push("user", text);
                let prompt = bound.prompts(std::slice::from_ref(&conversation));
                let written = prompt
                    .map_err(Error::from)
                    .and_then(|prompt| desk.show(&prompt.concat()));
                match written {
                    Ok(answer) => {
                        out!("")?;
                        conversation.push("assistant", &answer);
                        desk.behind(1);
                    }
                    // Whoever sits there can say it shorter, or begin again.
                    Err(error) if is_terminal => {
                        say!("error: {error}");
                        conversation.messages.pop();
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        ask();
    }
    Ok(ExitCode::SUCCESS)
}
