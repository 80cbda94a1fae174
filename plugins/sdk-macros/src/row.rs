//! `#[derive(FromRow)]` reads the fields of a struct from the columns of the same names. It never looks at the SQL.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Result, parse2};

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = parse2(input)?;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.ident.span(), "`FromRow` reads rows into structs with named fields"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new(
            input.ident.span(),
            "`FromRow` needs field names; a tuple such as `(String, i64)` reads columns by position without it",
        ));
    };
    let reads = fields.named.iter().enumerate().map(|(position, field)| {
        let ident = &field.ident;
        let name = ident.as_ref().map(|ident| ident.to_string().trim_start_matches("r#").to_owned());
        let ty = &field.ty;
        quote_spanned!(ty.span() => #ident: row.take_near::<#ty>(#position, #name)?)
    });
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::wharf_sdk::sql::FromRow for #ident #ty_generics #where_clause {
            fn from_row(row: &mut ::wharf_sdk::sql::Row) -> ::core::result::Result<Self, ::wharf_sdk::sql::Error> {
                ::core::result::Result::Ok(Self { #(#reads,)* })
            }
        }
    })
}
