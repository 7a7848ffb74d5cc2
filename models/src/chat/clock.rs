use std::{fmt, str::FromStr, time::SystemTime};

use super::ChatError;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The day that templates write where they ask for the current one.
///
/// It is fixed for a run and recorded with it, so that the same rows are the same tokens on any
/// other day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: i64,
    month: u32,
    day: u32,
}

impl Date {
    /// The current day, in UTC.
    pub fn today() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self::of_days(since.map_or(0, |since| since.as_secs() / 86_400) as i64)
    }

    /// So many days behind 1970-01-01 (Howard Hinnant, `civil_from_days`).
    fn of_days(days: i64) -> Self {
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Self {
            year: year + era * 400 + i64::from(month <= 2),
            month: month as u32,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u32,
        }
    }

    /// Days since 1970-01-01.
    fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = i64::from((self.month + 9) % 12);
        let day_of_year = (153 * from_march + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year
            - 719_468
    }

    /// The date as Python's `strftime` writes it in the C locale, at midnight.
    ///
    /// # Errors
    /// A directive that is not known, by its letter.
    pub fn format(self, format: &str) -> Result<String, String> {
        let weekday = (self.days() + 4).rem_euclid(7) as usize;
        let of_year = self.days()
            - Self {
                month: 1,
                day: 1,
                ..self
            }
            .days()
            + 1;
        let (day_name, month_name) = (DAYS[weekday], MONTHS[self.month as usize - 1]);
        let mut text = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            let Self { year, month, day } = self;
            text += &match letters.next() {
                Some('d') => format!("{day:02}"),
                Some('e') => format!("{day:2}"),
                Some('m') => format!("{month:02}"),
                Some('b' | 'h') => month_name[..3].to_owned(),
                Some('B') => month_name.to_owned(),
                Some('y') => format!("{:02}", year.rem_euclid(100)),
                Some('Y') => year.to_string(),
                Some('a') => day_name[..3].to_owned(),
                Some('A') => day_name.to_owned(),
                Some('w') => weekday.to_string(),
                Some('u') => ((weekday + 6) % 7 + 1).to_string(),
                Some('j') => format!("{of_year:03}"),
                Some('H' | 'M' | 'S') => "00".to_owned(),
                Some('I') => "12".to_owned(),
                Some('p') => "AM".to_owned(),
                Some('f') => "000000".to_owned(),
                Some('F') => self.to_string(),
                Some('T' | 'X') => "00:00:00".to_owned(),
                Some('R') => "00:00".to_owned(),
                Some('D' | 'x') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('z' | 'Z') => String::new(),
                Some('-') => match letters.next() {
                    Some('d') => day.to_string(),
                    Some('m') => month.to_string(),
                    other => return Err(unknown("%-", other)),
                },
                Some('%') => "%".to_owned(),
                other => return Err(unknown("%", other)),
            };
        }
        Ok(text)
    }
}

fn unknown(start: &str, letter: Option<char>) -> String {
    let letter = letter.map(String::from).unwrap_or_default();
    format!("strftime_now: `{start}{letter}` is not known")
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = ChatError;

    fn from_str(text: &str) -> Result<Self, ChatError> {
        let read = || {
            let (year, rest) = text.split_once('-')?;
            let (month, day) = rest.split_once('-')?;
            let number = |text: &str, len: usize| {
                let is_number = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| text.parse::<u32>().ok()).flatten()
            };
            let date = Self {
                year: number(year, 4)?.into(),
                month: number(month, 2).filter(|month| (1..=12).contains(month))?,
                day: number(day, 2).filter(|day| (1..=31).contains(day))?,
            };
            // The 31st of a shorter month is another day.
            (Self::of_days(date.days()) == date).then_some(date)
        };
        read().ok_or_else(|| ChatError::Date {
            found: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_strftime_writes_them() {
        let date: Date = "2024-07-26".parse().unwrap();
        assert_eq!(date.format("%d %b %Y").unwrap(), "26 Jul 2024");
        // Python 3.11: datetime(2024, 7, 26).strftime(...)
        let all = "%A %a %w %u %j %B %m %y %e|%H:%M %p %% %F %-d";
        let expected = "Friday Fri 5 5 208 July 07 24 26|00:00 AM % 2024-07-26 26";
        assert_eq!(date.format(all).unwrap(), expected);
        assert!(date.format("%Q").unwrap_err().contains("`%Q`"));
        assert!(date.format("%").is_err());
    }

    #[test]
    fn every_day_has_its_number() {
        for days in (-800_000..800_000).step_by(97) {
            let date = Date::of_days(days);
            assert_eq!(date.days(), days);
        }
        assert_eq!(Date::of_days(0).to_string(), "1970-01-01");
        assert_eq!(Date::of_days(19_782).to_string(), "2024-02-29");
        for text in [
            "2023-02-29",
            "2024-13-01",
            "2024-1-01",
            "today",
            "",
            "2024-00-10",
            "+024-01-01",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
