//! What happens to a parsed template before it is run: each access to a field becomes a call of a function of ours, which
//! knows the place in the template, and `\t` and `\n` in plain text become the characters that they stand for.

use std::sync::Arc;

use gotmpl::parse::{BranchNode, CommandNode, Expr, ListNode, Node, PipeNode, Pos, SmolStr};

/// Name under which the access to a field is called; no user can write it.
pub(super) const FIELD: &str = "\0field";
/// Name under which a method with arguments is called.
pub(super) const METHOD: &str = "\0method";

/// Rewrites `list`, part of the template `text`. `known` tells which functions there are.
pub(super) fn list(list: &mut ListNode, text: &str, known: &dyn Fn(&str) -> bool) -> Result<(), String> {
    Rewrite { text, known }.list(list)
}

struct Rewrite<'a> {
    text: &'a str,
    known: &'a dyn Fn(&str) -> bool,
}

impl Rewrite<'_> {
    fn list(&self, list: &mut ListNode) -> Result<(), String> {
        list.nodes.iter_mut().try_for_each(|node| self.node(node))
    }

    fn node(&self, node: &mut Node) -> Result<(), String> {
        match node {
            Node::List(list) => self.list(list),
            Node::Text(text) => {
                if text.text.contains('\\') {
                    text.text = Arc::from(text.text.replace("\\t", "\t").replace("\\n", "\n"));
                }
                Ok(())
            }
            Node::Action(action) => self.pipe(&mut action.pipe),
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => self.branch(branch),
            Node::Template(call) => call.pipe.as_mut().map_or(Ok(()), |pipe| self.pipe(pipe)),
            Node::Define(define) => self.list(&mut define.body),
            Node::Break(_) | Node::Continue(_) => Ok(()),
        }
    }

    fn branch(&self, branch: &mut BranchNode) -> Result<(), String> {
        self.pipe(&mut branch.pipe)?;
        self.list(&mut branch.body)?;
        branch.else_body.as_mut().map_or(Ok(()), |body| self.list(body))
    }

    fn pipe(&self, pipe: &mut PipeNode) -> Result<(), String> {
        for (position, command) in pipe.commands.iter_mut().enumerate() {
            self.command(command, position > 0)?;
        }
        Ok(())
    }

    /// `piped`: the command gets the value of the one before it as its last argument.
    fn command(&self, command: &mut CommandNode, piped: bool) -> Result<(), String> {
        for argument in command.args.iter_mut().skip(1) {
            self.expr(argument)?;
        }
        let has_arguments = piped || command.args.len() > 1;
        let Some(first) = command.args.first_mut() else { return Ok(()) };
        if let Expr::Identifier(pos, name) = first {
            let unknown = || format!("{}: there is no function {name:?}", place(self.text, pos.offset));
            return if (self.known)(name) { Ok(()) } else { Err(unknown()) };
        }
        match self.access(first)? {
            Some(access) if has_arguments => {
                let rest = command.args.split_off(1);
                command.args = access.arguments(METHOD);
                command.args.extend(rest);
            }
            Some(access) => *first = access.call(),
            None => {}
        }
        Ok(())
    }

    fn expr(&self, expr: &mut Expr) -> Result<(), String> {
        if let Some(access) = self.access(expr)? {
            *expr = access.call();
        }
        Ok(())
    }

    /// The access to fields that `expr` is, if it is one. What it is made of has been rewritten.
    fn access(&self, expr: &mut Expr) -> Result<Option<Access>, String> {
        let (pos, base, fields) = match expr {
            Expr::Field(pos, fields) => (*pos, Expr::Dot(*pos), fields),
            Expr::Variable(_, _, fields) if fields.is_empty() => return Ok(None),
            Expr::Variable(pos, name, fields) => (*pos, Expr::Variable(*pos, name.clone(), vec![]), fields),
            Expr::Chain(pos, inner, fields) => {
                self.expr(inner)?;
                (*pos, inner.as_ref().clone(), fields)
            }
            Expr::Pipe(_, pipe) => return self.pipe(pipe).map(|()| None),
            _ => return Ok(None),
        };
        let place = place(self.text, pos.offset);
        Ok(Some(Access { pos, base, path: fields.join("."), place }))
    }
}

/// `LINE:COLUMN` of the byte `offset` of a template, both from 1, columns in characters.
pub(super) fn place(template: &str, offset: usize) -> String {
    let before = template.get(..offset).unwrap_or(template);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("{line}:{column}")
}

struct Access {
    pos: Pos,
    base: Expr,
    path: String,
    place: String,
}

impl Access {
    fn arguments(self, function: &'static str) -> Vec<Expr> {
        let pos = self.pos;
        vec![
            Expr::Identifier(pos, SmolStr::new_static(function)),
            self.base,
            Expr::String(pos, Arc::from(self.path)),
            Expr::String(pos, Arc::from(self.place)),
        ]
    }

    fn call(self) -> Expr {
        let pos = self.pos;
        let command = CommandNode { pos, args: self.arguments(FIELD) };
        Expr::Pipe(pos, PipeNode { pos, decl: vec![], commands: vec![command], is_assign: false })
    }
}
