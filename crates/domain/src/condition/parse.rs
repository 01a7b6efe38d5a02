//! Reads a condition, by recursive descent of bounded depth.

use std::str::FromStr;

use muster_wire::http::MAX_CONDITION_BYTES;

use super::token::{Reader, Token, error};
use super::{Column, Comparison, Condition, ConditionError, Kind, Literal, MAX_DEPTH, MAX_KEYS, MAX_LIST, MAX_TESTS, Path, Place, Test};

const TEST: &str =
    "a test: a path (tags.…, reported.…, deviceId, presence, parent, agent.name, agent.version), a function, NOT or a parenthesis";
const OPERATOR: &str = "an operator: = != <> < <= > >= IN or NOT IN";
const LITERAL: &str = "a value: a string in quotes, a number, true, false or null";

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        if text.len() > MAX_CONDITION_BYTES {
            let column = text.char_indices().take_while(|(at, _)| *at < MAX_CONDITION_BYTES).count();
            return Err(error(column, format!("{} bytes", text.len()), &format!("at most {MAX_CONDITION_BYTES} bytes")));
        }
        let mut reader = Reader::new(text);
        let (column, token) = reader.next(false)?;
        let mut parser = Parser { reader, column, token, tests: 0 };
        let condition = parser.condition(0)?;
        match parser.token {
            Token::End => Ok(condition),
            _ => Err(parser.wrong("AND, OR or the end")),
        }
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    /// Where the current token begins.
    column: usize,
    token: Token,
    tests: usize,
}

/// What stands on one side of an operator.
enum Operand {
    Path(Path),
    Literal(Literal),
}

impl Parser<'_> {
    fn wrong(&self, expected: &str) -> ConditionError {
        error(self.column, self.token.named(), expected)
    }

    /// Goes on to the next token, and gives the current one.
    fn advance(&mut self) -> Result<Token, ConditionError> {
        let is_key = self.token == Token::Sign(".");
        let (column, token) = self.reader.next(is_key)?;
        self.column = column;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn skip_word(&mut self, word: &str) -> Result<bool, ConditionError> {
        let is_there = self.token.is_word(word);
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    fn skip_sign(&mut self, sign: &'static str) -> Result<bool, ConditionError> {
        let is_there = self.token == Token::Sign(sign);
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    fn sign(&mut self, sign: &'static str, expected: &str) -> Result<(), ConditionError> {
        if self.skip_sign(sign)? { Ok(()) } else { Err(self.wrong(expected)) }
    }

    fn condition(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let first = self.conjunction(depth)?;
        if !self.token.is_word("OR") {
            return Ok(first);
        }
        let mut any = vec![first];
        while self.skip_word("OR")? {
            any.push(self.conjunction(depth)?);
        }
        Ok(Condition::Any(any))
    }

    fn conjunction(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let first = self.negation(depth)?;
        if !self.token.is_word("AND") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_word("AND")? {
            all.push(self.negation(depth)?);
        }
        Ok(Condition::All(all))
    }

    fn negation(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let nests = self.token.is_word("NOT") || self.token == Token::Sign("(");
        if nests && depth == MAX_DEPTH {
            return Err(self.wrong(&format!("at most {MAX_DEPTH} parentheses and NOT inside each other")));
        }
        if self.skip_word("NOT")? {
            return Ok(Condition::Not(Box::new(self.negation(depth + 1)?)));
        }
        if self.skip_sign("(")? {
            let inner = self.condition(depth + 1)?;
            self.sign(")", "AND, OR or `)`")?;
            return Ok(inner);
        }
        if self.tests == MAX_TESTS {
            return Err(self.wrong(&format!("at most {MAX_TESTS} tests in one condition; many values of one path are written as IN […]")));
        }
        self.tests += 1;
        self.test()
    }

    fn test(&mut self) -> Result<Condition, ConditionError> {
        let column = self.column;
        let left = match self.literal()? {
            Some(literal) => Operand::Literal(literal),
            None => {
                let Token::Word(word) = &self.token else { return Err(self.wrong(TEST)) };
                let word = word.clone();
                self.advance()?;
                if self.token == Token::Sign("(") {
                    return self.function(column, &word);
                }
                Operand::Path(self.path(column, word)?)
            }
        };
        if let Operand::Path(path) = &left
            && let Some(is_negated) = self.list_operator()?
        {
            let test = Condition::Test(path.clone(), Test::In(self.list()?));
            return Ok(if is_negated { Condition::Not(Box::new(test)) } else { test });
        }
        let operator_column = self.column;
        let comparison = self.comparison()?;
        let right_column = self.column;
        let right = match self.literal()? {
            Some(literal) => Operand::Literal(literal),
            None => {
                let Token::Word(word) = &self.token else { return Err(self.wrong(LITERAL)) };
                let word = word.clone();
                self.advance()?;
                Operand::Path(self.path(right_column, word)?)
            }
        };
        let (path, comparison, literal) = match (left, right) {
            (Operand::Path(path), Operand::Literal(literal)) => (path, comparison, literal),
            (Operand::Literal(literal), Operand::Path(path)) => (path, comparison.flipped(), literal),
            (Operand::Path(_), Operand::Path(_)) => return Err(error(right_column, "a path".to_owned(), LITERAL)),
            (Operand::Literal(_), Operand::Literal(_)) => {
                return Err(error(right_column, "a value".to_owned(), "a path: a value is compared with what a device has"));
            }
        };
        if comparison.is_order() && !matches!(literal.kind(), Kind::Number | Kind::String) {
            let found = "an operator of order beside true, false or null".to_owned();
            return Err(error(operator_column, found, "= or !=: only numbers and strings have an order"));
        }
        Ok(Condition::Test(path, Test::Compare(comparison, literal)))
    }

    fn comparison(&mut self) -> Result<Comparison, ConditionError> {
        let comparison = match self.token {
            Token::Sign("=") => Comparison::Equal,
            Token::Sign("!=" | "<>") => Comparison::NotEqual,
            Token::Sign("<") => Comparison::Less,
            Token::Sign("<=") => Comparison::LessOrEqual,
            Token::Sign(">") => Comparison::Greater,
            Token::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return Err(self.wrong(OPERATOR)),
        };
        self.advance()?;
        Ok(comparison)
    }

    /// `IN`, or `NOT IN` (true) or its short form `NIN`.
    fn list_operator(&mut self) -> Result<Option<bool>, ConditionError> {
        if self.skip_word("IN")? {
            return Ok(Some(false));
        }
        if self.skip_word("NIN")? {
            return Ok(Some(true));
        }
        if !self.skip_word("NOT")? {
            return Ok(None);
        }
        if self.skip_word("IN")? { Ok(Some(true)) } else { Err(self.wrong("IN: NOT stands before a test, or in NOT IN")) }
    }

    fn list(&mut self) -> Result<Vec<Literal>, ConditionError> {
        self.sign("[", "a list in brackets, like ['a', 'b']")?;
        let mut list = Vec::new();
        loop {
            if list.len() == MAX_LIST {
                return Err(self.wrong(&format!("at most {MAX_LIST} values in a list")));
            }
            let Some(literal) = self.literal()? else { return Err(self.wrong(LITERAL)) };
            list.push(literal);
            if !self.skip_sign(",")? {
                break;
            }
        }
        self.sign("]", "`,` or `]`")?;
        Ok(list)
    }

    fn literal(&mut self) -> Result<Option<Literal>, ConditionError> {
        let literal = match &self.token {
            Token::Text(text) => Literal::Text(text.clone()),
            Token::Number(number) => Literal::Number(*number),
            token if token.is_word("true") => Literal::Bool(true),
            token if token.is_word("false") => Literal::Bool(false),
            token if token.is_word("null") => Literal::Null,
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(literal))
    }

    /// Behind the name of a function.
    fn function(&mut self, column: usize, name: &str) -> Result<Condition, ConditionError> {
        enum Function {
            Alone(Test),
            WithText(Place),
        }
        let function = match name.to_ascii_lowercase().as_str() {
            "is_defined" => Function::Alone(Test::Defined),
            "is_bool" => Function::Alone(Test::Is(Kind::Bool)),
            "is_number" => Function::Alone(Test::Is(Kind::Number)),
            "is_string" => Function::Alone(Test::Is(Kind::String)),
            "is_null" => Function::Alone(Test::Is(Kind::Null)),
            "is_object" => Function::Alone(Test::Is(Kind::Object)),
            "is_array" => Function::Alone(Test::Is(Kind::Array)),
            "startswith" => Function::WithText(Place::Start),
            "endswith" => Function::WithText(Place::End),
            "contains" => Function::WithText(Place::Anywhere),
            _ => {
                let expected = "is_defined, is_bool, is_number, is_string, is_null, is_object, is_array, STARTSWITH, ENDSWITH or CONTAINS";
                return Err(error(column, Token::Word(name.to_owned()).named(), expected));
            }
        };
        self.sign("(", "`(`")?;
        let path_column = self.column;
        let Token::Word(word) = &self.token else { return Err(self.wrong("a path, like tags.site")) };
        let word = word.clone();
        self.advance()?;
        let path = self.path(path_column, word)?;
        let test = match function {
            Function::Alone(test) => test,
            Function::WithText(place) => {
                self.sign(",", "`,` and a string")?;
                let Token::Text(text) = &self.token else { return Err(self.wrong("a string in quotes")) };
                let text = text.clone();
                self.advance()?;
                Test::Holds(place, text)
            }
        };
        self.sign(")", "`)`")?;
        Ok(Condition::Test(path, test))
    }

    /// Behind its first word.
    fn path(&mut self, column: usize, root: String) -> Result<Path, ConditionError> {
        match root.as_str() {
            "tags" => Ok(Path::Tags(self.keys(Vec::new())?)),
            "reported" => Ok(Path::Reported(self.keys(Vec::new())?)),
            "properties" => {
                self.named_key("reported", "`.reported`: devices have no other properties here")?;
                Ok(Path::Reported(self.keys(Vec::new())?))
            }
            "deviceId" => Ok(Path::Column(Column::DeviceId)),
            "presence" => Ok(Path::Column(Column::Presence)),
            "parent" => Ok(Path::Column(Column::Parent)),
            "agent" => {
                self.sign(".", "`.name` or `.version`")?;
                let column = match &self.token {
                    Token::Word(word) if word == "name" => Column::AgentName,
                    Token::Word(word) if word == "version" => Column::AgentVersion,
                    _ => return Err(self.wrong("`name` or `version`")),
                };
                self.advance()?;
                Ok(Path::Column(column))
            }
            _ => Err(error(column, Token::Word(root).named(), TEST)),
        }
    }

    fn named_key(&mut self, name: &str, expected: &str) -> Result<(), ConditionError> {
        self.sign(".", expected)?;
        match &self.token {
            Token::Word(word) if word == name => self.advance().map(|_| ()),
            _ => Err(self.wrong(expected)),
        }
    }

    fn keys(&mut self, mut keys: Vec<String>) -> Result<Vec<String>, ConditionError> {
        loop {
            if matches!(self.token, Token::Sign("." | "[")) && keys.len() == MAX_KEYS {
                return Err(self.wrong(&format!("at most {MAX_KEYS} keys in a path")));
            }
            if self.skip_sign(".")? {
                let Token::Word(key) = &self.token else {
                    return Err(self.wrong("the name of a key; names of other characters are written in brackets, like tags['a b']"));
                };
                keys.push(key.clone());
                self.advance()?;
            } else if self.skip_sign("[")? {
                let Token::Text(key) = &self.token else { return Err(self.wrong("the name of a key in quotes")) };
                keys.push(key.clone());
                self.advance()?;
                self.sign("]", "`]`")?;
            } else if keys.is_empty() {
                return Err(self.wrong("`.` and the name of a key, like tags.site"));
            } else {
                return Ok(keys);
            }
        }
    }
}
